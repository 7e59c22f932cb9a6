-- Run once, by the PostgreSQL image, in a new volume. Dagster and single requests keep tables, and versions of them, of their own.
CREATE DATABASE dagster;
CREATE DATABASE depthline;
