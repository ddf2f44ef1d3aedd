-- Strings and blocks are written for these, whatever database.extra says.
SET SESSION sql_mode = '', autocommit = 1;
CREATE DATABASE IF NOT EXISTS `app` CHARACTER SET utf8mb4;
CREATE USER IF NOT EXISTS 'app'@'%' IDENTIFIED BY 'x';
ALTER USER 'app'@'%' IDENTIFIED BY 'x';
GRANT ALL PRIVILEGES ON `app`.* TO 'app'@'%';
CREATE DATABASE IF NOT EXISTS `my_shop` CHARACTER SET utf8mb4;
CREATE USER IF NOT EXISTS 'health'@'localhost' IDENTIFIED BY 'x';
ALTER USER 'health'@'localhost' IDENTIFIED BY 'x';
-- HAProxy's checks log in so. Through the VIP any client comes from a load balancer's address, hence the limits: with an
-- expired password it may set a new one, and nothing else; who does that has a user without rights.
CREATE USER IF NOT EXISTS 'haproxy-check'@'192.168.106.251';
ALTER USER 'haproxy-check'@'192.168.106.251' IDENTIFIED VIA mysql_native_password USING ''
    WITH MAX_USER_CONNECTIONS 20 PASSWORD EXPIRE;
-- The donor of a state transfer by mariabackup. The installation has made it, with all rights; somebody may have removed it.
CREATE USER IF NOT EXISTS 'mysql'@'localhost' IDENTIFIED VIA unix_socket;
GRANT RELOAD, PROCESS, LOCK TABLES, BINLOG MONITOR ON *.* TO 'mysql'@'localhost';
-- Mycat knows this way of logging in only.
CREATE USER IF NOT EXISTS 'mycat'@'%' IDENTIFIED VIA mysql_native_password USING PASSWORD('x');
ALTER USER 'mycat'@'%' IDENTIFIED VIA mysql_native_password USING PASSWORD('x');
CREATE DATABASE IF NOT EXISTS `app1` CHARACTER SET utf8mb4;
GRANT ALL PRIVILEGES ON `app1`.* TO 'mycat'@'%';
-- database.users. Rights are granted before others are revoked, so that nobody is without them meanwhile.
CREATE DATABASE IF NOT EXISTS `mycat_ha` CHARACTER SET utf8mb4;
CREATE TABLE IF NOT EXISTS `mycat_ha`.users (name VARCHAR(80) COLLATE utf8mb4_bin PRIMARY KEY) ENGINE = InnoDB;
DELETE FROM `mycat_ha`.users WHERE name IN ('app', 'mycat');
INSERT IGNORE INTO `mycat_ha`.users VALUES ('report-reader');
CREATE USER IF NOT EXISTS 'report-reader'@'%' IDENTIFIED BY 'x' REQUIRE NONE;
ALTER USER 'report-reader'@'%' IDENTIFIED BY 'x' REQUIRE NONE;
GRANT SELECT ON `app`.* TO 'report-reader'@'%';
REVOKE INSERT, UPDATE, DELETE, CREATE, DROP, REFERENCES, INDEX, ALTER, CREATE TEMPORARY TABLES, LOCK TABLES, CREATE VIEW, SHOW VIEW, CREATE ROUTINE, ALTER ROUTINE, EXECUTE, EVENT, TRIGGER, DELETE HISTORY, GRANT OPTION ON `app`.* FROM 'report-reader'@'%';
GRANT ALL PRIVILEGES ON `my\_shop`.* TO 'report-reader'@'%';
REVOKE GRANT OPTION ON `my\_shop`.* FROM 'report-reader'@'%';
INSERT IGNORE INTO `mycat_ha`.users VALUES ('nobody');
CREATE USER IF NOT EXISTS 'nobody'@'%' IDENTIFIED BY 'x' REQUIRE SSL;
ALTER USER 'nobody'@'%' IDENTIFIED BY 'x' REQUIRE SSL;
-- What they have on any other schema is revoked, and who is no longer one of them is dropped.
DELIMITER //
BEGIN NOT ATOMIC
    FOR other IN (SELECT db FROM mysql.db WHERE user = 'report-reader' AND host = '%'
                  AND db <> IF(@@lower_case_table_names, LOWER('app'), 'app')
                  AND db <> IF(@@lower_case_table_names, LOWER('my\\_shop'), 'my\\_shop')
                 ) DO
        EXECUTE IMMEDIATE CONCAT(
            'REVOKE SELECT, INSERT, UPDATE, DELETE, CREATE, DROP, REFERENCES, INDEX, ALTER, CREATE TEMPORARY TABLES, LOCK TABLES, CREATE VIEW, SHOW VIEW, CREATE ROUTINE, ALTER ROUTINE, EXECUTE, EVENT, TRIGGER, DELETE HISTORY, GRANT OPTION ON `', REPLACE(other.db, '`', '``'), '`.* FROM ''report-reader''@''%''');
    END FOR;
    FOR other IN (SELECT db FROM mysql.db WHERE user = 'nobody' AND host = '%'
                 ) DO
        EXECUTE IMMEDIATE CONCAT(
            'REVOKE SELECT, INSERT, UPDATE, DELETE, CREATE, DROP, REFERENCES, INDEX, ALTER, CREATE TEMPORARY TABLES, LOCK TABLES, CREATE VIEW, SHOW VIEW, CREATE ROUTINE, ALTER ROUTINE, EXECUTE, EVENT, TRIGGER, DELETE HISTORY, GRANT OPTION ON `', REPLACE(other.db, '`', '``'), '`.* FROM ''nobody''@''%''');
    END FOR;
    FOR gone IN (SELECT name FROM `mycat_ha`.users
                 WHERE name NOT IN ('', 'report-reader', 'nobody')) DO
        EXECUTE IMMEDIATE CONCAT('DROP USER IF EXISTS ''', gone.name, '''@''%''');
        DELETE FROM `mycat_ha`.users WHERE name = gone.name;
    END FOR;
END//
DELIMITER ;
