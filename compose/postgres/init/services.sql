-- Creates the databases and roles of all services, from the URLs that the services get as secrets. The image of
-- PostgreSQL runs this script when its volume is new. It is idempotent, and sets the passwords again:
--
--   psql -U postgres -f /docker-entrypoint-initdb.d/services.sql
\set ON_ERROR_STOP on
\if :{?secrets}
\else
  \set secrets /run/secrets
\endif

\set service user
\set owner_password `sed -E 's|^[^:]*://[^:]*:([^@]*)@.*|\1|' :'secrets'/user_owner_url`
\set app_password `sed -E 's|^[^:]*://[^:]*:([^@]*)@.*|\1|' :'secrets'/user_app_url`
\ir ../provision.sql

\set service product
\set owner_password `sed -E 's|^[^:]*://[^:]*:([^@]*)@.*|\1|' :'secrets'/product_owner_url`
\set app_password `sed -E 's|^[^:]*://[^:]*:([^@]*)@.*|\1|' :'secrets'/product_app_url`
\ir ../provision.sql

\set service order
\set owner_password `sed -E 's|^[^:]*://[^:]*:([^@]*)@.*|\1|' :'secrets'/order_owner_url`
\set app_password `sed -E 's|^[^:]*://[^:]*:([^@]*)@.*|\1|' :'secrets'/order_app_url`
\ir ../provision.sql

\set service notification
\set owner_password `sed -E 's|^[^:]*://[^:]*:([^@]*)@.*|\1|' :'secrets'/notification_owner_url`
\set app_password `sed -E 's|^[^:]*://[^:]*:([^@]*)@.*|\1|' :'secrets'/notification_app_url`
\ir ../provision.sql

\set service analytics
\set owner_password `sed -E 's|^[^:]*://[^:]*:([^@]*)@.*|\1|' :'secrets'/analytics_owner_url`
\set app_password `sed -E 's|^[^:]*://[^:]*:([^@]*)@.*|\1|' :'secrets'/analytics_app_url`
\ir ../provision.sql
