"""Start a worker. The descriptors are claimed first: nothing that is imported later can write to the host."""

import gc
import os
import signal
import sys


def main() -> None:
    """Run what the command line asks for: serve on stdin and stdout, or explain this machine."""
    gc.disable()  # until all is imported: what is made meanwhile stays anyway
    from worker.app.options import parse  # noqa: PLC0415 - standard library only; see claim

    if sys.argv[1:2] not in (["simulate"], ["doctor"], ["report"], ["top"]):
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the host's, from the first moment on
    if sys.argv[1:2] == ["simulate"]:
        from worker.tools.simulate.command import main as simulate  # noqa: PLC0415 - has options of its own

        sys.exit(simulate(sys.argv[2:]))
    if sys.argv[1:2] == ["report"]:
        from worker.tools.report.command import main as report  # noqa: PLC0415 - has options of its own

        sys.exit(report(sys.argv[2:]))
    if sys.argv[1:2] == ["top"]:
        from worker.tools.top.command import main as top  # noqa: PLC0415 - has options of its own

        sys.exit(top(sys.argv[2:]))
    arguments = parse(sys.argv[1:])
    if arguments.command == "doctor":
        from worker.tools.doctor import examine  # noqa: PLC0415 - prints for people, so nothing is claimed

        sys.exit(examine(arguments))
    from worker.stream.descriptors import claim  # noqa: PLC0415

    descriptors = claim()
    # Third-party code is imported from here on.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")  # looking for plugins takes 20 ms
    from worker.app.serve import serve  # noqa: PLC0415

    serve(arguments, *descriptors)


if __name__ == "__main__":
    main()
