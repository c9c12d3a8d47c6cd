"""Which loaders are engines', and which keys of a model mean nothing to them: for the declaration and the load alike."""

ENGINE_LOADERS = ("onnx", "gguf", "torch.jit")
"""Loaders of models that a library runs in a process of its own: it decides how weights lie there."""

NOT_FOR_ENGINES = {
    "dtype": "has no meaning for an engine's model: its library runs weights as they are stored",
    "offload": "has no meaning for an engine's model: it is shrunk or unloaded",
    "placement": "has no meaning for an engine's model: its library places the weights",
}
"""Keys that an engine's model must not have, and what to say of them."""
