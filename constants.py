"""Facts that several parts of the project share: ports, paths on the machines, unit names. Each stands here once."""

#: Where MariaDB listens, on its machine's own address.
MYSQL_PORT = 3306
#: As whom HAProxy checks the stack's own databases; no user of the settings may be named so.
MYSQL_CHECK_USER = "haproxy-check"
#: Where MariaDB lets its machine's health responder in when all its connections are taken.
MYSQL_EXTRA_PORT = 3305
#: Mycat's client port, on its machine's own address (Mycat's own default).
MYCAT_PORT = 8066
#: Mycat's manager port (Mycat's own default).
MYCAT_MANAGER_PORT = 9066
#: The responder that answers the load balancers' checks of a database or a Mycat, as in the recipe.
SERVICE_HEALTH_PORT = 48700
#: HAProxy's own health check, on loopback; files/keepalived/check-haproxy asks it.
HAPROXY_HEALTH_PORT = 8889
#: Where HAProxy tells the other load balancers which database is the single writer, on its machine's own address.
HAPROXY_PEERS_PORT = 8890
#: What HAProxy knows of its servers, during a reload.
HAPROXY_SERVER_STATE = "/run/haproxy/servers"

#: Programs that run on the machines.
LIBRARY = "/usr/local/lib/mycat-ha"
#: Their settings.
ETC = "/etc/mycat-ha"

#: Seconds; the longest that the setting `vip.drain` may be. leave-service.service has half a minute more.
LONGEST_DRAIN = 120

#: What AWS answers to credentials that it does not take, and what that means.
REFUSED = {
    "ExpiredToken": "have expired: log in again",
    "ExpiredTokenException": "have expired: log in again",
    "RequestExpired": "have expired, or this machine's clock is wrong",
    "InvalidClientTokenId": "are not known to AWS, or not in this region",
    "AuthFailure": "are not known to AWS, or not in this region",
    "UnrecognizedClientException": "are not known to AWS, or not in this region",
    "SignatureDoesNotMatch": "have a secret that does not belong to their id",
}
