"""Models as they lie on disk: in shards, in a folder, in a hub's cache."""

import errno
import json
import os
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")
from safetensors.torch import save_file

from tests.unit.loaders.declared import NO_MODELS, loaded, refused, spec
from worker.core.errors import ModelLoadFailedError
from worker.loaders.model_path import identity_of, model_files
from worker.loaders.registry import inferred, loader_of


def shards(folder: Path, kind: str = "safetensors") -> dict:
    """Write three shards and their index; returns what is in them."""
    whole = {f"layer{n}": torch.full((3, 5 + n), float(n)) for n in range(6)}
    stem, suffix = ("model", "safetensors") if kind == "safetensors" else ("pytorch_model", "bin")
    weight_map = {}
    for number in range(1, 4):
        name = f"{stem}-0000{number}-of-00003.{suffix}"
        part = dict(list(whole.items())[2 * number - 2 : 2 * number])
        weight_map |= dict.fromkeys(part, name)
        save_file(part, folder / name) if kind == "safetensors" else torch.save(part, folder / name)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps(index))
    return whole


@pytest.mark.parametrize("dtype", [None, "F16"])
@pytest.mark.parametrize("kind", ["safetensors", "torch"])
def test_shards_are_one_model_by_index_by_folder_and_by_list(tmp_path, kind, dtype):
    """However its shards are named, a model in pieces has one footprint and every tensor."""
    whole = shards(tmp_path, kind)
    (index,) = tmp_path.glob("*.json")
    files = sorted(set(tmp_path.iterdir()) - {index})
    ways = [spec(index, dtype=dtype), spec(tmp_path, dtype=dtype, root=tmp_path.parent)]
    ways.append(spec(files[0], more_paths=tuple(files[1:]), dtype=dtype))
    for way in ways:
        found = loaded(way)
        assert found.keys() == whole.keys()
        for name, tensor in whole.items():
            assert torch.equal(found[name].float(), tensor), name
    index.unlink()
    assert loaded(ways[1]).keys() == whole.keys()
    files[1].unlink()
    assert "shard 2 of 3 is not in its folder" in refused(ways[1])


def test_shards_of_several_models_in_a_folder_are_told(tmp_path):
    """Another variant's, and what is left of an earlier download of another number: none is mixed into the other, nor said to be missing."""
    folder = tmp_path / "m"
    folder.mkdir()
    shards(folder)
    (folder / "model.safetensors.index.json").unlink()
    whole = spec(folder, root=tmp_path)
    for left in ("model-00001-of-00004.safetensors", "model.fp16-00001-of-00001.safetensors"):
        save_file({"w": torch.ones(4)}, folder / left)
        told = f"several models in shards, model-00001-of-00003.safetensors, {left}: declare the first file of one"
        assert told in refused(whole)
        assert loaded(spec(folder / "model-00001-of-00003.safetensors")).keys() == {
            f"layer{n}" for n in range(6)
        }
        (folder / left).unlink()
    assert len(loaded(whole)) == 6


def test_a_suffix_in_capitals_is_one(tmp_path):
    """As some tools write it, on file systems where that is the same."""
    (tmp_path / "m").mkdir()
    save_file({"w": torch.ones(4)}, tmp_path / "m" / "W.SAFETENSORS")
    assert loaded(spec(tmp_path / "m", root=tmp_path)).keys() == {"w"}


def test_a_variant_has_an_index_of_its_own_name(tmp_path):
    """``*.index.fp16.json`` is an index like any other, and a file is the same by whatever path an index names it."""
    shards(tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    said = json.loads(index.read_text())
    said["weight_map"]["layer0"] = f"./{said['weight_map']['layer0']}"
    variant = tmp_path / "model.safetensors.index.fp16.json"
    variant.write_text(json.dumps(said))
    assert len(loaded(spec(variant))) == 6


def test_a_file_that_is_listed_twice_is_told(tmp_path):
    """Its tensors would be there twice, and count twice."""
    save_file({"w": torch.ones(4)}, tmp_path / "a.safetensors")
    twice = spec(tmp_path / "a.safetensors", more_paths=(tmp_path / "a.safetensors",))
    assert "tensor 'w' is in a.safetensors and in a.safetensors" in refused(twice)


def test_an_index_that_does_not_fit_its_shards(tmp_path):
    """An index that names missing shards, or tensors they lack, is refused by what does not fit."""
    shards(tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    said = json.loads(index.read_text())
    said["weight_map"]["nosuch"] = said["weight_map"]["layer0"]
    index.write_text(json.dumps(said))
    assert "its index names tensor 'nosuch', which is in none of its files" in refused(spec(index))
    save_file({"layer0": torch.ones(1)}, tmp_path / "model-00002-of-00003.safetensors")
    assert "tensor 'layer0' is in model-00001-of-00003.safetensors and in" in refused(spec(index))
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    assert "its index names model-00002-of-00003.safetensors, which is not there" in refused(spec(index))
    for text in (
        "[]",
        "{}",
        "{",
        '{"weight_map": {"a": 3}}',
        '{"weight_map": {}}',
        '{"weight_map": {"a": "../x"}}',
        '{"weight_map": {"a": "x\\u0000"}}',
        '{"weight_map": {"a": "\\ud800"}}',
    ):
        index.write_text(text)
        cause = refused(spec(index))
        assert any(
            told in cause for told in ("weight_map", "is not below the model root", "that no path can have")
        )


@pytest.mark.parametrize("kind", ["a pointer", "a page"])
def test_an_index_that_is_something_else_is_told_as_that(tmp_path, kind):
    """As a model's own file is."""
    shards(tmp_path)
    content, told = NO_MODELS[kind]
    (tmp_path / "model.safetensors.index.json").write_bytes(content)
    cause = refused(spec(tmp_path / "model.safetensors.index.json"))
    assert cause.startswith("its index: it is a") and told in cause


def hub_cache(folder: Path) -> tuple[Path, Path]:
    """Lay a cache out as huggingface_hub does. Returns the model's folder and its snapshot."""
    model = folder / "models--org--name"
    snapshot = model / "snapshots" / "a1b2c3"
    (model / "blobs").mkdir(parents=True)
    snapshot.mkdir(parents=True)
    save_file({"w": torch.ones(4)}, model / "blobs" / "5e8f")
    (snapshot / "model.safetensors").symlink_to("../../blobs/5e8f")
    return model, snapshot


def test_a_hub_cache_is_read_as_it_lies_on_disk(tmp_path):
    """Links of a snapshot into its own blobs are followed; all others are refused, with what to do."""
    model, snapshot = hub_cache(tmp_path)
    for root in (snapshot, model, tmp_path):
        assert loaded(spec(snapshot / "model.safetensors", root=root)).keys() == {"w"}
    assert loaded(spec(snapshot, root=model)).keys() == {"w"}
    other, _ = hub_cache(tmp_path / "elsewhere")
    (snapshot / "theirs.safetensors").symlink_to(other / "blobs" / "5e8f")
    assert "is not below the model root" in refused(spec(snapshot / "theirs.safetensors", root=snapshot))
    (snapshot / "deeper").mkdir()
    cause = refused(spec(snapshot / "model.safetensors", root=snapshot / "deeper"))
    assert f"use --model-root {model}" in cause
    (snapshot / "config").symlink_to(model / "blobs")
    assert "not below" in refused(spec(snapshot / "config", root=snapshot))


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege there")
def test_a_link_to_what_is_not_there_says_whose_it_is(tmp_path):
    """A download that broke off, a file that git-annex did not fetch, and any other."""
    _, snapshot = hub_cache(tmp_path)
    (snapshot / "model.safetensors").unlink()
    (snapshot / "model.safetensors").symlink_to("../../blobs/ffff")
    assert "a hub cache to ffff, which is not there: its download never ended" in refused(
        spec(snapshot, "safetensors", root=tmp_path)
    )
    link = tmp_path / "m.safetensors"
    link.symlink_to(".git/annex/objects/aa/bb/SHA256E-s9--ab/SHA256E-s9--ab")
    assert "run 'git annex get'" in refused(spec(link, "safetensors"))
    link.unlink()
    link.symlink_to("nowhere")
    assert f"it is a link to {tmp_path / 'nowhere'}, which is not there" in refused(spec(link, "safetensors"))


def test_a_hub_caches_folder_stands_for_its_snapshot(tmp_path):
    """For that of ``main``, else for the only one; which of several is meant has to be said."""
    model, snapshot = hub_cache(tmp_path)
    way = spec(model, root=tmp_path)
    assert loaded(way).keys() == {"w"}
    newer = model / "snapshots" / "d4e5"
    newer.mkdir()
    assert "several snapshots, a1b2c3, d4e5: declare one" in refused(way)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text("a1b2c3")
    assert model_files(way).declared == (snapshot / "model.safetensors",)
    (model / "refs" / "main").write_text("elsewhere")
    assert "several snapshots" in refused(way)
    (model / "refs" / "main").write_bytes(b"\xff\xfe\x00a")
    assert "several snapshots" in refused(way)
    (model / "refs" / "main").unlink()
    if hasattr(os, "mkfifo"):
        os.mkfifo(model / "refs" / "main")
        assert "several snapshots" in refused(way)


@pytest.mark.parametrize("kind", ["safetensors", "torch"])
def test_the_first_shard_stands_for_all(tmp_path, kind):
    """A shard is no whole model: the first is taken for all of them, another is refused with what to declare."""
    whole = shards(tmp_path, kind)
    first, second, third = sorted(each for each in tmp_path.iterdir() if each.suffix != ".json")
    assert loaded(spec(first)).keys() == whole.keys()
    assert "it is one of 3 files of a model: declare the first of them, or their folder" in refused(
        spec(second)
    )
    third.unlink()
    assert f"{third.name}: there is no such file" in refused(spec(first))


def test_a_loader_is_known_by_what_the_file_holds(tmp_path):
    """Whatever it is called."""
    save_file({"w": torch.ones(2)}, tmp_path / "a.pt")
    torch.save({"w": torch.ones(2)}, tmp_path / "b.safetensors")
    torch.save({"w": torch.ones(2)}, tmp_path / "c.pth.tar", _use_new_zipfile_serialization=False)
    for name in ("a.pt", "b.safetensors", "c.pth.tar"):
        assert loaded(spec(tmp_path / name)).keys() == {"w"}
    (tmp_path / "d.bin").write_bytes(b"GGUF" + bytes(100))
    assert inferred(spec(tmp_path / "d.bin")).loader == "gguf"
    (tmp_path / "e").write_text("some text or other, which is no model")
    with pytest.raises(ModelLoadFailedError, match="it is text, not a model, and begins 'some text or other"):
        loader_of(spec(tmp_path / "e"))
    assert "by its contents it is for the loader safetensors" in refused(spec(tmp_path / "a.pt", "torch"))


def test_params_that_tensors_have_no_use_for_are_refused(tmp_path):
    """What was meant for another loader is told, and not passed over."""
    for loader in ("safetensors", "torch"):
        cause = refused(spec(tmp_path / "m", loader, params=(("n_ctx", 8192),)))
        assert cause == f"params.n_ctx is no option of the loader {loader}; it has none: leave it out"


def test_a_folder_of_several_models_is_not_guessed_at(tmp_path):
    """A folder that could be several models is refused with what to name instead."""
    folder = tmp_path / "models"
    folder.mkdir()
    assert "it is a folder without a model" in refused(spec(folder, root=tmp_path))
    (folder / "model_index.json").write_text('{"unet": ["diffusers", "UNet2DConditionModel"]}')
    assert "declare each folder in it that is needed" in refused(spec(folder, root=tmp_path))
    for name in ("a.pt", "b.pt"):
        torch.save({"w": torch.ones(1)}, folder / name)
    assert "it is a folder with several models, a.pt, b.pt" in refused(spec(folder, root=tmp_path))


def chosen(folder: Path, *names: str) -> list[str]:
    """Make a folder of these files, each with a tensor of its own, and return what is taken for the model."""
    folder.mkdir()
    for name in names:
        if name.endswith(".index.json"):
            stem, suffix = name.split(".")[:2]
            (folder / name).write_text(
                json.dumps({"weight_map": {f"{stem}.{suffix}": f"{stem}-00001-of-00001.{suffix}"}})
            )
        else:
            save_file({name.replace("-00001-of-00001", ""): torch.ones(1)}, folder / name)
    return [each.name for each in model_files(spec(folder, root=folder.parent)).real]


def test_of_several_formats_the_one_that_is_there_is_the_model(tmp_path):
    """A hub serves all indexes, whichever format is downloaded; the one file goes first, as its libraries have it."""
    shard, bin_shard = "model-00001-of-00001.safetensors", "pytorch_model-00001-of-00001.bin"
    index, bin_index = "model.safetensors.index.json", "pytorch_model.bin.index.json"
    assert chosen(tmp_path / "a", "model.safetensors", bin_index) == ["model.safetensors"]
    assert chosen(tmp_path / "b", "model.safetensors", index) == ["model.safetensors"]
    assert chosen(tmp_path / "c", shard, bin_index) == [shard]
    assert chosen(tmp_path / "d", bin_shard, bin_index, index) == [bin_shard]
    assert chosen(tmp_path / "e", shard, index, bin_shard, bin_index) == [shard]
    assert chosen(tmp_path / "f", "pytorch_model.bin", "training_args.bin", "optimizer.pt") == [
        "pytorch_model.bin"
    ]
    assert chosen(tmp_path / "g", "adapter_model.safetensors", shard, index) == [shard]
    both = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors")
    assert chosen(tmp_path / "h", *both) == list(both[:1])
    with pytest.raises(ModelLoadFailedError, match="its index names pytorch_model-00001-of-00001.bin, which"):
        chosen(tmp_path / "i", bin_index)


def test_what_a_mac_leaves_beside_files_is_no_shard(tmp_path):
    """Copied from a Mac, each file has a companion of the same name after ``._``, which holds its attributes."""
    shard = "model-00001-of-00001.safetensors"
    assert chosen(tmp_path / "a", shard, f"._{shard}") == [shard]
    assert chosen(tmp_path / "b", "weights.safetensors", "._weights.safetensors") == ["weights.safetensors"]


def test_files_that_were_replaced_have_another_identity(tmp_path):
    """A file put in place of another by renaming is seen as another."""
    shards(tmp_path)
    declared = model_files(spec(tmp_path, root=tmp_path.parent)).declared
    before = identity_of(declared)
    assert before == identity_of(declared) and len(before) == 4
    (tmp_path / "model-00001-of-00003.safetensors").replace(tmp_path / "model-00002-of-00003.safetensors")
    assert identity_of(declared) is None
    save_file({"w": torch.ones(2)}, tmp_path / "model-00001-of-00003.safetensors")
    assert identity_of(declared) not in {None, before}


def test_files_that_were_written_to_have_another_identity(tmp_path):
    """As by cp over the old one, which keeps its inode; with another size, or at another time."""
    path = tmp_path / "m"
    path.write_bytes(b"1" * 9)
    before = identity_of((path,))
    path.write_bytes(b"1" * 8)
    smaller = identity_of((path,))
    os.utime(path, ns=(1, 1))
    later = identity_of((path,))
    assert len({before, smaller, later}) == 3
    path.chmod(0o600)
    os.utime(path, ns=(2, 1))  # that it was read
    assert identity_of((path,)) == later


@pytest.mark.parametrize("looks", [1, 2])
def test_a_share_that_is_lost_as_a_file_is_opened(tmp_path, monkeypatch, looks):
    """Its error is the model's, and no descriptor stays open, at whichever look at it the share goes."""
    path = tmp_path / "m.safetensors"
    save_file({"a": torch.zeros(4)}, path)
    fstat, seen = os.fstat, []

    def lost(descriptor):
        found = fstat(descriptor)
        if os.path.samestat(found, path.stat()):
            seen.append(descriptor)
            if len(seen) == looks:
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return found

    with monkeypatch.context() as patched:
        patched.setattr(os, "fstat", lost)
        assert os.strerror(errno.ESTALE) in refused(spec(path, "safetensors"))
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        os.fstat(seen[0])
