"""The explained model's artifact, from where the model file says it is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hindcast.errors import ModelRefused

if TYPE_CHECKING:
    from hindcast.config import ModelFile


def load_artifact(model: ModelFile) -> object:
    """Load ``explain.model`` of a model file; of a bucket, its bytes are hashed and loaded, never written to disk.

    Raises
    ------
    ModelRefused, SourceMissing, SourceUnreadable, SourceBusy
    """
    from hindcast.explainers import load_model

    artifact = model.explain.model
    if artifact is None:
        message = f"{model.model}: the model file has no explain.model"
        raise ModelRefused(message)
    source: Path | bytes = Path(model.resolve(artifact.uri))
    if artifact.uri.startswith("s3://"):
        from hindcast.sources.files import content

        if artifact.format == "mlflow":
            message = (
                f"{artifact.uri}: format mlflow is a local folder; in a bucket, name the file inside and its format"
            )
            raise ModelRefused(message)
        source = content(artifact.uri, artifact.connection)
    return load_model(source, format=artifact.format, sha256=artifact.sha256, allow_pickle=artifact.allow_pickle)
