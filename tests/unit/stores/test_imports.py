"""How the parts of the stores import one another."""

from graphlib import TopologicalSorter

import grimp


def test_imports_point_one_way() -> None:
    """Also those for types alone: who reads a file needs those that it imports, and never one that needs it."""
    graph = grimp.build_graph("worker")
    parts = graph.find_descendants("worker.stores")
    imports = {each: graph.find_modules_directly_imported_by(each) & parts for each in parts}
    assert set(TopologicalSorter(imports).static_order()) == parts
