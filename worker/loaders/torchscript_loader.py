"""TorchScript archives (``torch.jit.save``): read here as far as their directory, run by torch in an engine process."""

from contextlib import closing

from worker.backends.engines.base import EngineLaunch
from worker.core.models import ModelSpec
from worker.loaders.base import load_failed, naming, reading
from worker.loaders.file_kind import ZIP, check_kind, head_of
from worker.loaders.model_path import model_files, open_file
from worker.loaders.params import Params
from worker.loaders.positional_file import PositionalFile
from worker.loaders.torch_archive import script_bytes
from worker.loaders.torch_library import INSTALL_TORCH, check_installed

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
        files, size = model_files(spec).real, _size(spec)
        check_installed(spec, "it is a TorchScript archive: ")
        return EngineLaunch(
            ENGINE, files[0], params, files=files, remedies={"torch": INSTALL_TORCH}, group=spec.engine_group,
            estimated_bytes=size,
        )  # fmt: skip

    def device_id(self, spec: ModelSpec) -> str | None:
        """Return the declared device where it is a GPU that torch itself has."""
        return spec.device_id if spec.device_id is not None and spec.device_id.startswith("cuda:") else None


def _size(spec: ModelSpec) -> int:
    files = model_files(spec)
    if len(files.real) != 1:
        raise load_failed(
            spec, f"a TorchScript archive is one file, and there are {len(files.real)}: declare one of them"
        )
    with naming(spec, files.names(spec)[0]):
        with closing(PositionalFile(*open_file(spec, files.real[0]))) as file, reading(spec):
            head = head_of(file)
            check_kind("torch", head, file.size_bytes)  # an archive of torch's, too
            size = script_bytes(file) if head.startswith(ZIP) else None
        if size is None:
            raise load_failed(
                spec, "it is no TorchScript archive (torch.jit.save): declare the loader torch, or none"
            )
    return size
