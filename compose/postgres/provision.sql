-- Creates a database and two roles for one service, with only the rights that they need. Run it as a superuser, once
-- for each service. It is idempotent, and sets the passwords again:
--
--   for service in user product order notification analytics; do
--     psql -v service=$service -v owner_password=... -v app_password=... \
--       -f compose/postgres/provision.sql postgresql://postgres@HOST/postgres
--   done
--
-- quintet_SERVICE_owner owns the tables and migrates. The service uses quintet_SERVICE_app, which reads and writes rows
-- and cannot change tables. Neither can connect to the database of another service.
\set ON_ERROR_STOP on
\set database quintet_ :service
\set owner quintet_ :service _owner
\set app quintet_ :service _app

SELECT format('CREATE ROLE %I', name) FROM unnest(ARRAY[:'owner', :'app']) AS name
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) \gexec
ALTER ROLE :"owner" LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE PASSWORD :'owner_password';
ALTER ROLE :"app" LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE PASSWORD :'app_password';

SELECT format('CREATE DATABASE %I OWNER %I TEMPLATE template0 ENCODING ''UTF8''', :'database', :'owner')
WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = :'database') \gexec
REVOKE ALL ON DATABASE :"database" FROM PUBLIC;
GRANT CONNECT ON DATABASE :"database" TO :"app";

\connect :"database"
-- Before PostgreSQL 15 every role could create tables in this schema.
REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT USAGE, CREATE ON SCHEMA public TO :"owner";
GRANT USAGE ON SCHEMA public TO :"app";
-- Also for tables and sequences that later migrations create.
ALTER DEFAULT PRIVILEGES FOR ROLE :"owner" IN SCHEMA public GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO :"app";
ALTER DEFAULT PRIVILEGES FOR ROLE :"owner" IN SCHEMA public GRANT USAGE ON SEQUENCES TO :"app";
