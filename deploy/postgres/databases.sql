-- Run once, by the PostgreSQL image, in a new volume, after it has made POSTGRES_DB: for single requests, as this one is for Dagster.
-- Each keeps tables, and versions of them, of its own.
CREATE DATABASE dagster;
