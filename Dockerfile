# The image of every Airflow service in docker-compose.yaml, and of the demo's serving process.
FROM python:3.12-slim-bookworm

# libgomp: LightGBM and scikit-learn; tini reaps what LocalExecutor and Celery fork.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgomp1 tini \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 50000 --gid 0 --create-home --home-dir /opt/airflow airflow

WORKDIR /opt/hindcast
COPY requirements.txt requirements-compose.txt ./
# The import fails the build where the provider and Celery do not fit, which would else be seen when the stack starts.
RUN pip install --no-cache-dir -r requirements.txt -r requirements-compose.txt \
    && AIRFLOW_HOME=/tmp/airflow python -c "import airflow.providers.celery.executors.celery_executor" \
    && rm -rf /tmp/airflow

COPY pyproject.toml README.md ./
COPY include/hindcast include/hindcast
RUN pip install --no-cache-dir --no-deps .
COPY dags dags
COPY plugins plugins
COPY demo demo

RUN mkdir -p /opt/airflow/logs /opt/airflow/shared /opt/airflow/spool /var/lib/hindcast \
    && chown -R airflow:0 /opt/airflow /var/lib/hindcast
USER airflow
ENV AIRFLOW_HOME=/opt/airflow
ENTRYPOINT ["/usr/bin/tini", "--"]
CMD ["airflow", "version"]
