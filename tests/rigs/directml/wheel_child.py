"""Runs in torch_directml's interpreter (Python 3.8 and up): code comes in as JSON lines, answers go out as such."""

import json
import os
import sys

answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)

try:
    import torch
    import torch_directml as dml
except Exception as problem:  # noqa: BLE001 - whatever it is, the test has to see it
    sys.exit(f"{type(problem).__name__}: {problem}")


def empty(size_bytes: int, adapter: int = 0) -> torch.Tensor:
    """Return a buffer on a device."""
    return torch.empty(size_bytes, dtype=torch.uint8, device=dml.device(adapter))


names = {"torch": torch, "dml": dml, "empty": empty}
for line in sys.stdin:
    code, value, error = json.loads(line), None, None
    try:
        try:
            expression = compile(code, "<test>", "eval")
        except SyntaxError:
            exec(compile(code, "<test>", "exec"), names)  # noqa: S102 - it is what this process is for
        else:
            value = eval(expression, names)  # noqa: S307 - an expression of the test that runs it
    except Exception as problem:  # noqa: BLE001 - its type and text are the answer
        error = f"{type(problem).__name__}: {problem}".split("\n")[0]
    answers.write(json.dumps([value, error]) + "\n")
    answers.flush()
os._exit(0)  # how the library ends by itself is not what is tested
