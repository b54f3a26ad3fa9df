-- The roles and the database of docs/store.md, made with the first start.
CREATE ROLE smtpproxy_owner LOGIN;
CREATE ROLE smtpproxy LOGIN;
CREATE DATABASE smtpproxy OWNER smtpproxy_owner ENCODING 'UTF8' TEMPLATE template0;
