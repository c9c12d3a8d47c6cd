"""Start a worker. The descriptors are claimed first: nothing that is imported later can write to the host.

``python -m memory_worker`` comes here, having checked the interpreter; ``python -m worker`` goes there first, so
that this file has to be understood by an interpreter that is too old.
"""

import gc
import os
import signal
import sys


def main() -> None:
    """Run what the command line asks for: serve on stdin and stdout, or explain this machine."""
    gc.disable()  # until all is imported: what is made meanwhile stays anyway
    from worker.app.options import COMMANDS_OF_THEIR_OWN, parse  # noqa: PLC0415 - standard library only; see claim

    command = sys.argv[1] if len(sys.argv) > 1 else ""
    if command in COMMANDS_OF_THEIR_OWN and command != "fleet":
        sys.exit(_run_tool(command, sys.argv[2:]))
    interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the host's, from the first moment on
    if command == "fleet":
        from worker.fleet.command import fleet  # noqa: PLC0415 - standard library only, as options

        gc.enable()
        os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
        fleet(sys.argv[2:], _claim)
    arguments = parse(sys.argv[1:])
    if arguments.command == "doctor":
        signal.signal(signal.SIGINT, interrupt)
        from worker.core.output import claim_output  # noqa: PLC0415 - only for what was asked for

        out = claim_output()
        from worker.tools.doctor import examine  # noqa: PLC0415 - libraries are imported from here on

        sys.exit(examine(arguments, out))
    descriptors = _claim()
    # Third-party code is imported from here on.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")  # looking for plugins takes 20 ms
    from worker.app.serve import serve  # noqa: PLC0415 - only for what was asked for

    if arguments.command == "broker":
        from worker.tools.broker import narrate, prepare  # noqa: PLC0415 - only for what was asked for

        if interrupt != signal.SIG_IGN:  # as a shell's job in the background has it
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # it has no host that Ctrl-C could be meant for
        serve(arguments, prepare(arguments, descriptors[0]), descriptors[1], narrate)
    serve(arguments, *descriptors)


def _claim() -> "tuple[int, int]":
    """Take stdin and stdout over. Exits with 2 where the system has no descriptor for that, or no null device."""
    from worker.app.options import fail  # noqa: PLC0415 - standard library only
    from worker.stream.descriptors import claim  # noqa: PLC0415 - only for what was asked for

    try:
        return claim()
    except OSError as error:
        fail(f"stdin and stdout can't be taken over: {error}")


def _run_tool(name: str, arguments: "list[str]") -> int:
    """Run a command that has options of its own. Returns the exit code."""
    if name == "top":
        from worker.tools.top.command import main as top  # noqa: PLC0415 - takes the terminal as it is

        return top(arguments)
    if name == "mcp":
        from worker.tools.mcp import main as mcp  # noqa: PLC0415 - its library claims the output

        return mcp(arguments)
    from worker.core.output import claim_output  # noqa: PLC0415 - only for what was asked for

    if name == "report":
        from worker.tools.report.command import main as report  # noqa: PLC0415 - only for what was asked for

        return report(arguments, claim_output)
    from worker.tools.simulate.command import main as simulate  # noqa: PLC0415 - only for what was asked for

    return simulate(arguments, claim_output)


if __name__ == "__main__":
    here = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120 - see above
    entry = os.path.join(here, "entry")  # noqa: PTH118 - as above
    sys.path.insert(0, entry if os.path.isdir(entry) else os.path.dirname(here))  # noqa: PTH112, PTH120 - as above
    from memory_worker.own_packages import prepare

    del sys.path[0]
    prepare()
    main()
