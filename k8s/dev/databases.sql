-- A role and a database for each service, run when the server's directory is made.
CREATE ROLE waybill_auth LOGIN PASSWORD 'dev';
CREATE ROLE waybill_user LOGIN PASSWORD 'dev';
CREATE ROLE waybill_inventory LOGIN PASSWORD 'dev';
CREATE ROLE waybill_payment LOGIN PASSWORD 'dev';
CREATE ROLE waybill_shipping LOGIN PASSWORD 'dev';
CREATE ROLE waybill_order LOGIN PASSWORD 'dev';
CREATE DATABASE waybill_auth OWNER waybill_auth;
CREATE DATABASE waybill_user OWNER waybill_user;
CREATE DATABASE waybill_inventory OWNER waybill_inventory;
CREATE DATABASE waybill_payment OWNER waybill_payment;
CREATE DATABASE waybill_shipping OWNER waybill_shipping;
CREATE DATABASE waybill_order OWNER waybill_order;
REVOKE CONNECT ON DATABASE waybill_auth, waybill_user, waybill_inventory, waybill_payment, waybill_shipping, waybill_order FROM PUBLIC;
