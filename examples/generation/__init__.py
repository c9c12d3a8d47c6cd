"""A plugin that writes a web project, as well as memory allows: with a model, from templates, or from text in code.

Declare a model that llama.cpp runs, or none, and start the worker (``pip install memory-worker[gguf,generation]``)::

    echo 'models: {generator: {path: model.gguf, declared_bytes: 4GiB, params: {n_ctx: 4096}}}' > models.yaml
    python -m memory_worker --models models.yaml --plugin examples.generation

    {"request_id": "1", "action": "generation.create", "data": {"user": "ann", "project": "Corner shop", "session": "1",
     "framework": "FastAPI", "domain": "ecommerce", "prompt": "A shop with login and live stock"}}

``service.py`` chooses; each strategy is a file of its own: ``full.py``, ``templates.py`` and ``minimal.py``.
"""

from examples.generation.service import register

__all__ = ["register"]
