"""Databases and Mycats behind the balancers."""

from drills.faults.fault import POWER_CUT, POWER_ON, Fault, after, shell

FAULTS = (
    Fault("database-power-cut", "the power is cut", "database", "stays", (POWER_CUT,), quick=True),
    Fault("database-kill", "mariadbd is killed once", "database", "stays", (shell("pkill -KILL -x mariadbd"),)),
    Fault(
        "database-hang",
        "mariadbd is there and does nothing",
        "database",
        "stays",
        (shell("pkill -STOP -x mariadbd", "pkill -CONT -x mariadbd || true"),),
        quick=True,
    ),
    Fault(
        "databases-power-cut",
        "the power of all is cut in the same second, and comes back",
        "databases",
        "may move",
        (POWER_CUT, POWER_ON),
        recovery=400,
    ),
    Fault(
        "mycat-kill",
        "Mycat is killed once",
        "Mycat",
        "stays",
        (shell("pkill -KILL -u mycat"), after(5)),
        clients=("mycat",),
    ),
    Fault(
        "mycat-hang",
        "Mycat is there and does nothing",
        "Mycat",
        "stays",
        (shell("pkill -STOP -u mycat", "pkill -CONT -u mycat || true"), after(5)),
        clients=("mycat",),
    ),
)
