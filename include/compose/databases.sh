#!/bin/sh
# Runs once, when the volume of PostgreSQL is new: a database and a user each for Airflow and the results, and one who reads.
set -eu
psql --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres \
    --set airflow="$AIRFLOW_DB_PASSWORD" --set results="$RESULTS_PASSWORD" --set reader="$RESULTS_READER_PASSWORD" <<'SQL'
CREATE USER airflow PASSWORD :'airflow';
CREATE DATABASE airflow OWNER airflow;
CREATE USER hindcast PASSWORD :'results';
CREATE DATABASE results OWNER hindcast;
CREATE USER hindcast_reader PASSWORD :'reader';
\connect results
GRANT USAGE ON SCHEMA public TO hindcast_reader;
ALTER DEFAULT PRIVILEGES FOR ROLE hindcast IN SCHEMA public GRANT SELECT ON TABLES TO hindcast_reader;
SQL
