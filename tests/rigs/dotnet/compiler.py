"""The compiler process: `python compiler.py ROOT ROSLYN` runs the jobs of plans through Roslyn until its input ends.

It holds the runtime that Roslyn runs on. A line of its input is a plan's path, and one of its output the answer, as JSON:
whether all jobs went well, and what was said, in csc's own format. The first job waits for Roslyn to be compiled itself.
"""

import io
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any


def start(root: str, roslyn: str) -> None:
    """Load the runtime and Roslyn. Nothing of .NET can be imported before."""
    import pythonnet

    os.environ["DOTNET_EnableDiagnostics"] = "0"  # else each run leaves a debugger's pipes behind  # noqa: SIM112 - .NET writes its name so
    version = next(Path(root, "shared", "Microsoft.NETCore.App").iterdir()).name
    options = {
        "framework": {"name": "Microsoft.NETCore.App", "version": version},
        "configProperties": {"System.Globalization.Invariant": True, "System.Runtime.TieredPGO": False},
    }
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "runtimeconfig.json"
        config.write_text(json.dumps({"runtimeOptions": options}))
        pythonnet.load("coreclr", runtime_config=str(config), dotnet_root=root)
    import clr

    for name in ("Microsoft.CodeAnalysis", "Microsoft.CodeAnalysis.CSharp"):
        clr.AddReference(f"{roslyn}/{name}.dll")


def compile_job(job: dict[str, Any], said: io.StringIO) -> bool:
    """Write one assembly; return whether that went well."""
    import Microsoft.CodeAnalysis as ca
    import Microsoft.CodeAnalysis.CSharp as cs
    from System import Array, String
    from System.Collections.Generic import List

    for file, text in {**job["generated"], **job["written"]}.items():
        Path(file).write_text(text, encoding="utf-8")
    closure = _closure(job["packages"], job["package_folder"])
    arguments = [*job["arguments"], *(f"/reference:{file}" for file in closure)]
    parsed = cs.CSharpCommandLineParser.Default.Parse(Array[String](arguments), job["folder"], None)
    if _report(parsed.Errors, said):
        return False
    trees, references = List[ca.SyntaxTree](), List[ca.MetadataReference]()
    for source in parsed.SourceFiles:
        text = ca.Text.SourceText.From(Path(source.Path).read_text(encoding="utf-8-sig"), _utf8())
        trees.Add(cs.SyntaxFactory.ParseSyntaxTree(text, parsed.ParseOptions, source.Path))
    for one in parsed.MetadataReferences:
        references.Add(ca.MetadataReference.CreateFromFile(one.Reference))
    resolver = ca.SourceFileResolver(parsed.SourcePaths, job["folder"], parsed.PathMap)
    options = parsed.CompilationOptions.WithSourceReferenceResolver(resolver)
    compilation = cs.CSharpCompilation.Create(job["name"], trees, references, options)
    return _emit(compilation, parsed, job["output"].removesuffix(".dll"), said)


def _utf8() -> Any:
    from System.Text import UTF8Encoding

    return UTF8Encoding(False)


def _closure(packages: list[str], folder: str) -> list[str]:
    """Return the packages' assemblies and those that they refer to, as a restore of these packages would."""
    import Microsoft.CodeAnalysis as ca

    found: dict[str, str] = {}
    pending = list(packages)
    while pending:
        name = pending.pop()
        file = f"{folder}/{name}.dll"
        if name in found or not Path(file).exists():
            continue
        found[name] = file
        reader = ca.AssemblyMetadata.CreateFromFile(file).GetModules()[0].GetMetadataReader()
        pending += [
            str(reader.GetString(reader.GetAssemblyReference(one).Name)) for one in reader.AssemblyReferences
        ]
    return sorted(found.values())


def _emit(compilation: Any, parsed: Any, name: str, said: io.StringIO) -> bool:
    """Write beside the targets, then rename: a reader never sees half an assembly."""
    from System.IO import File

    has_docs = parsed.DocumentationPath is not None
    streams = {
        kind: File.Create(f"{name}.{kind}.new") for kind in ("dll", "pdb", *(("xml",) if has_docs else ()))
    }
    try:
        result = compilation.Emit(
            streams["dll"],
            streams["pdb"],
            streams.get("xml"),
            None,
            parsed.ManifestResources,
            parsed.EmitOptions.WithPdbFilePath(f"{Path(name).name}.pdb"),
            None,
            None,
            None,
            None,
        )
    finally:
        for stream in streams.values():
            stream.Dispose()
    failed = _report(result.Diagnostics, said) or not result.Success
    for kind in streams:
        made = Path(f"{name}.{kind}.new")
        if failed:
            made.unlink()
        else:
            made.replace(f"{name}.{kind}")
    return not failed


def _report(diagnostics: Any, said: io.StringIO) -> bool:
    """Note warnings and errors; return whether there was an error."""
    import Microsoft.CodeAnalysis as ca

    failed = False
    for one in diagnostics:
        is_error = one.Severity == ca.DiagnosticSeverity.Error or one.IsWarningAsError
        if (is_error or one.Severity == ca.DiagnosticSeverity.Warning) and not one.IsSuppressed:
            said.write(f"{one.ToString()}\n")
        failed |= is_error and not one.IsSuppressed
    return failed


def main() -> None:
    """Answer for one plan after the other; a plan stops at its first job that fails."""
    start(*sys.argv[1:])
    for line in sys.stdin:
        jobs, said = json.loads(Path(line.rstrip("\n")).read_text(encoding="utf-8")), io.StringIO()
        succeeded = all(compile_job(job, said) for job in jobs)
        sys.stdout.write(json.dumps({"succeeded": succeeded, "said": said.getvalue()}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
    os._exit(0)  # skips the runtime's slow shutdown; everything is written
