"""What plugins do with onnxruntime's sessions, in the engine's process."""

from typing import Any


def sum_of(weights: Any, data: dict[str, Any], call: Any) -> float:
    import numpy as np

    (result,) = weights.session.run(None, {"x": np.ones(data["size"], np.float32)})
    return float(result.sum())


def spread(weights: Any, data: dict[str, Any], call: Any) -> float:
    import numpy as np

    (result,) = weights.session.run(None, {"shape": np.array([data["count"]], np.int64)})
    return float(result[0])


def speech(weights: Any, data: dict[str, Any], call: Any) -> float:
    import numpy as np

    state, found = np.zeros((2, 1, 128), np.float32), 0.0
    for _ in range(data["seconds"] * 16000 // 512):
        silence = np.zeros((1, 576), np.float32)
        inputs = {"input": silence, "state": state, "sr": np.array(16000, np.int64)}
        output, state = weights.session.run(None, inputs)
        found = max(found, float(output[0][0]))
    return found


def kinds(weights: Any, data: dict[str, Any], call: Any) -> list[float]:
    import numpy as np

    (given,) = weights.session.get_inputs()
    text = data["text"].encode().strip()
    size = given.shape[1]
    half = size // 2
    read = [*text[:half], *([256] * (half - len(text[:half])))]
    read += [*([256] * (half - len(text[-half:]))), *text[-half:]]
    (scores,) = weights.session.run(None, {given.name: np.array([read], np.int32)})
    return [float(each) for each in scores[0]]


def pixels(weights: Any, data: dict[str, Any], call: Any) -> int:
    import numpy as np

    (given,) = weights.session.get_inputs()
    (result,) = weights.session.run(
        None, {given.name: np.zeros((1, 3, data["size"], data["size"]), np.float32)}
    )
    return int(result.size)


def run(weights: Any, data: dict[str, Any], call: Any) -> Any:
    return weights.session.run(None, data["inputs"])


def sizes(weights: Any, data: dict[str, Any], call: Any) -> Any:
    return {"bytes": len(data["text"]), "back": bytes(data["text"]), "same": data["list"]}
