"""A logind on a bus of its own. Prints the bus's address, then does what it is told on standard input.

sleep, wake: PrepareForSleep(true), (false). locks: prints how many delay locks on sleep are held.
"""

import os
import sys

import dbusmock

LOGIND = "org.freedesktop.login1"
MANAGER = LOGIND + ".Manager"

dbusmock.DBusTestCase.setUpClass()
dbusmock.DBusTestCase.start_system_bus()
bus = dbusmock.DBusTestCase.get_dbus(system_bus=True)
server, logind = dbusmock.DBusTestCase.spawn_server_template("logind", {})
try:
    print(os.environ["DBUS_SYSTEM_BUS_ADDRESS"], flush=True)
    for line in sys.stdin:
        command = line.strip()
        if command in ("sleep", "wake"):
            logind.EmitSignal(MANAGER, "PrepareForSleep", "b", [command == "sleep"], dbus_interface=dbusmock.MOCK_IFACE)
            print("told", flush=True)
        elif command == "locks":
            held = logind.ListInhibitors(dbus_interface=MANAGER)
            print(sum(1 for what, _, _, mode, *_ in held if what == "sleep" and mode == "delay"), flush=True)
finally:
    server.terminate()
    server.wait()
    dbusmock.DBusTestCase.tearDownClass()
