"""TorchScript archives (``torch.jit.save``): read here as far as their directory, run by torch in an engine process."""

from importlib.util import find_spec

from worker.backends.engines.base import EngineLaunch
from worker.core.models import ModelSpec
from worker.loaders.base import NEEDS_TORCH, load_failed
from worker.loaders.file_kind import head_of, not_a_model
from worker.loaders.model_path import model_files, open_file
from worker.loaders.params import Params
from worker.loaders.positional_file import PositionalFile
from worker.loaders.torch_archive import script_bytes
from worker.loaders.zip_records import ZipError

ENGINE = "worker.backends.engines.torchscript:TorchScriptEngine"


class TorchScriptLoader:
    """An EngineLoader."""

    def estimate(self, spec: ModelSpec) -> int | None:
        """Return what its tensors take."""
        return _size(spec)

    def launch(self, spec: ModelSpec) -> EngineLaunch:
        """Check its directory and params, and return what the process opens."""
        given = Params(spec, "torch.jit")
        params = {"threads": given.whole("threads", 0, 1024, 0), "device": self.device_id(spec) or "cpu"}
        given.check()
        files = model_files(spec).real
        _size(spec)
        if find_spec("torch") is None:
            raise load_failed(spec, f"it is a TorchScript archive: {NEEDS_TORCH}")
        return EngineLaunch(
            ENGINE, files[0], params, files=files, remedies={"torch": NEEDS_TORCH}, group=spec.engine_group
        )

    def device_id(self, spec: ModelSpec) -> str | None:
        """Return the declared device where it is a GPU that torch itself has."""
        return spec.device_id if spec.device_id is not None and spec.device_id.startswith("cuda:") else None


def _size(spec: ModelSpec) -> int:
    files = model_files(spec).real
    if len(files) != 1:
        raise load_failed(spec, f"a TorchScript archive is one file; there are {len(files)}")
    file = PositionalFile(*open_file(spec, files[0]))
    try:
        wrong = not_a_model(head_of(file), file.size_bytes)
        if wrong is not None:
            raise load_failed(spec, wrong)
        size = script_bytes(file)
    except ZipError as error:
        raise load_failed(spec, str(error)) from error
    except OSError as error:
        raise load_failed(spec, f"reading it failed: {error.strerror}") from error
    finally:
        file.close()
    if size is None:
        raise load_failed(
            spec, "it is no TorchScript archive (torch.jit.save): declare the loader torch, or none"
        )
    return size
