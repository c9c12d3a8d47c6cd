"""What is declared as a model and only looks like one, or is not whole yet: said in words, with what to do."""

import tarfile

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")
from safetensors.torch import save_file

from tests.unit.loaders.declared import NO_MODELS, loaded, refused, spec
from worker.core.errors import ModelLoadFailedError
from worker.core.models import AUTO_LOADER
from worker.loaders.registry import loader_of


def test_half_a_download_is_said_to_be_one(tmp_path):
    """Wherever it broke off: in the header, in the tensors, in torch's formats; and what to do is said."""
    save_file({f"tensor {index}": torch.ones(9) for index in range(20)}, tmp_path / "a.safetensors")
    torch.save({"w": torch.ones(999)}, tmp_path / "zip.pt")
    torch.save({"w": torch.ones(999)}, tmp_path / "older.pt", _use_new_zipfile_serialization=False)
    for name in ("a.safetensors", "zip.pt", "older.pt"):
        whole = (tmp_path / name).read_bytes()
        for size in (1, 4, 8, len(whole) // 10, len(whole) // 2, len(whole) - 9):
            (tmp_path / "part").write_bytes(whole[:size])
            assert "download it again" in refused(spec(tmp_path / "part")), (name, size)


@pytest.mark.parametrize("loader", ["safetensors", AUTO_LOADER])
def test_a_download_of_aria2_that_is_not_over_is_said_to_be_one(tmp_path, loader):
    """Its file has its header and its whole length long before the weights between are there."""
    path = tmp_path / "m.safetensors"
    save_file({"w": torch.ones(99)}, path)
    unfinished = tmp_path / "m.safetensors.aria2"
    unfinished.write_bytes(b"\0\1")
    wanted = spec(path, loader)
    with pytest.raises(ModelLoadFailedError, match="its download by aria2 is not over: m.safetensors.aria2"):
        loader_of(wanted).open(wanted)
    unfinished.unlink()
    assert loaded(wanted).keys() == {"w"}
    longest = tmp_path / ("m" * 243 + ".safetensors")  # to which nothing can be beside
    path.replace(longest)
    assert loaded(spec(longest, loader)).keys() == {"w"}


@pytest.mark.parametrize("loader", ["safetensors", "torch", AUTO_LOADER])
@pytest.mark.parametrize("name", NO_MODELS)
def test_what_is_no_model_is_said_in_words(tmp_path, name, loader):
    """A pointer, a page, an empty file or another archive is named for what it is, with what to do."""
    content, told = NO_MODELS[name]
    path = tmp_path / "m.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelLoadFailedError) as caught:
        loader_of(spec(path, loader)).open(spec(path, loader))
    cause = caught.value.details["cause"]
    assert told in cause or (name == "half a zip" and "but a zip archive" in cause)


def test_a_tar_archive_is_said_to_be_one(tmp_path):
    """An archive of another format is not taken for a damaged model."""
    (tmp_path / "inner").write_text("x")
    with tarfile.open(tmp_path / "m.pt", "w") as archive:
        archive.add(tmp_path / "inner", "inner")
    assert "it is a tar archive; unpack it" in refused(spec(tmp_path / "m.pt", "torch"))
