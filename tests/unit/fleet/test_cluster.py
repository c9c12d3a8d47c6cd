"""Which machines there are, by what Ray says. Ray itself is stood in for."""

from importlib.util import find_spec
from types import SimpleNamespace

import pytest

pytestmark = pytest.mark.skipif(find_spec("ray") is None, reason="the extra fleet is for Linux")


def row(ray_id: str, *, alive: bool = True) -> dict[str, object]:
    return {
        "NodeID": ray_id,
        "Alive": alive,
        "NodeManagerAddress": "10.0.0.1",
        "NodeManagerHostname": "one",
        "NodeName": "one",
    }


@pytest.mark.parametrize("ids", [("a", "b"), ("b", "a")])
def test_ray_that_was_started_anew_is_the_one_that_is_there(
    monkeypatch: pytest.MonkeyPatch, ids: tuple[str, str]
) -> None:
    """Ray misses the old one up to half a minute later: the one that came later is right, and who came later still tries both."""
    from worker.fleet import cluster

    old, new = ids
    rows = [row(old)]
    monkeypatch.setattr(cluster.ray, "init", lambda *_, **__: None)
    monkeypatch.setattr(cluster.ray, "get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: old))
    monkeypatch.setattr(cluster.ray, "nodes", lambda: rows)

    def there(of: cluster.Cluster) -> str:
        return of.machines()["one"].ray_id

    early = cluster.Cluster("auto")
    assert there(early) == old
    rows.append(row(new))
    assert [there(early) for _ in range(3)] == [new] * 3
    late = cluster.Cluster("auto")
    chosen = there(late)
    assert there(late) == chosen  # nothing says that it is another
    if chosen == old:
        late.missed(late.machines()["one"])
    assert [there(late) for _ in range(3)] == [new] * 3
    rows[0] = row(old, alive=False)
    assert (there(early), there(late)) == (new, new)
