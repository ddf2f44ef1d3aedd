"""A highly available MySQL entry point on AWS: one virtual IP, load balancers that own it in turn, databases behind."""

import pulumi

from components import account, reach
from components.cluster import Cluster, ClusterArgs
from components.firewall import Firewall, FirewallArgs
from components.mycat_files import backends
from components.network import Network, NetworkArgs
from components.tagging import tag_everything
from settings import Role, Settings

settings = Settings.load()
account.check()
reach.say_what_is_off(settings.machines)
tag_everything(settings.tags)

network = Network("network", NetworkArgs(settings.network, settings.machines, settings.vip.address))
firewall = Firewall(
    "firewall",
    FirewallArgs(
        vpc_id=network.vpc_id,
        machines=settings.machines,
        access=settings.access,
        haproxy=settings.haproxy,
        database=settings.database,
        mycat=settings.mycat,
        mycat_databases=backends(settings).servers if settings.of_role(Role.MYCAT) else (),
        http=settings.http,
        mail=settings.keepalived.mail,
        ec2_endpoint=settings.network.ec2_endpoint,
    ),
)
cluster = Cluster("cluster", ClusterArgs(settings, network, firewall))
if __name__ == "__main__":  # as Pulumi runs it; dry_run.py connects to nothing
    reach.watch(cluster.reached)

pulumi.export("vip", str(settings.vip.address))
pulumi.export("mysqlPort", settings.haproxy.mysql.port)
if settings.haproxy.mysql.read_port:
    pulumi.export("mysqlReadPort", settings.haproxy.mysql.read_port)
scheme = "https" if settings.haproxy.statistics.tls else "http"
pulumi.export("statisticsUrl", f"{scheme}://{settings.vip.address}:{settings.haproxy.statistics.port}/admin?stats")
pulumi.export("statisticsUser", settings.haproxy.statistics.user)
pulumi.export("statisticsPassword", settings.secret("statistics"))
if cluster.statistics_authority:
    pulumi.export("statisticsAuthority", cluster.statistics_authority)
if not settings.database.external:
    pulumi.export("databaseUser", settings.database.user)
    pulumi.export("databaseSchema", settings.database.schema_)
    pulumi.export("databasePassword", settings.secret("database"))
if cluster.database_authority:
    pulumi.export("databaseAuthority", cluster.database_authority)
if settings.mycat:
    pulumi.export("mycatPort", settings.haproxy.mycat.port)
    for user in settings.mycat.users[:1]:
        pulumi.export("mycatUser", user.name)
        pulumi.export("mycatSchema", settings.mycat.schemas_of(user)[0])
        pulumi.export("mycatPassword", settings.secret(user.secret))
pulumi.export("vpcId", network.vpc_id)
pulumi.export("subnetId", network.subnet_id)
if network.route_table_id:
    pulumi.export("routeTableId", network.route_table_id)
pulumi.export("securityGroupIds", firewall.group_ids)
if cluster.bastion:
    pulumi.export("bastion", cluster.bastion.address)
pulumi.export("machines", [cluster.describe(machine) for machine in settings.machines])
