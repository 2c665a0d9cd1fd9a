"""How statements are written for BigQuery where its dialect for SQLAlchemy does not know our types."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import Text, TypeDecorator
from sqlalchemy_bigquery.base import BigQueryCompiler  # type: ignore[import-untyped] # it ships none

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import BindParameter, Dialect
    from sqlalchemy.types import TypeEngine


class _Many(TypeDecorator[Any]):
    """A list of values of a type: one parameter, of which a query may have 10,000, for any number of them."""

    impl = Text
    cache_ok = True

    def __init__(self, each: TypeEngine[Any]) -> None:
        super().__init__()
        self.each = each

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Named like its elements; whoever writes the parameter sees that it is a list."""
        return self.each.load_dialect_impl(dialect) if isinstance(self.each, TypeDecorator) else self.each

    def bind_processor(self, dialect: Dialect) -> Callable[[Any], Any]:
        """Convert each element; the dialect by itself hands over the list as if it were one."""
        convert = self.each.dialect_impl(dialect).bind_processor(dialect)
        return lambda values: list(values) if convert is None else [convert(value) for value in values]


class Compiler(BigQueryCompiler):  # type: ignore[misc] # untyped
    """Writes lists as arrays."""

    def visit_bindparam(self, bindparam: BindParameter[Any], *args: Any, **options: Any) -> str:
        """A parameter with its type."""
        if bindparam.expanding and not options.get("literal_binds"):
            whole = bindparam._clone(maintain_key=True)  # noqa: SLF001 - as the dialect does
            whole.expanding, whole.type = False, _Many(bindparam.type)
            return f"UNNEST({super().visit_bindparam(whole, *args, **options)})"
        return str(super().visit_bindparam(bindparam, *args, **options))
