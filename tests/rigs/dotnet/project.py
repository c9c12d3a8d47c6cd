"""Read a .csproj as the SDK would: the part of MSBuild that this project's files use.

Property and item groups, imports of Directory.Build.props and Directory.Packages.props, ``$(Property)`` and
conditions that compare two strings. Whatever else would change the build stops with file and element: nothing is
guessed.
"""

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

ASPNET_REFERENCE = "Microsoft.AspNetCore.App"
CONFIGURATION = "Release"
"""What is tested and measured is what is shipped."""
ITEMS = {
    "ProjectReference",
    "PackageReference",
    "PackageVersion",
    "FrameworkReference",
    "InternalsVisibleTo",
    "Using",
    "Compile",
    "EmbeddedResource",
}
WITHOUT_EFFECT = {"None", "Content", "Folder", "AdditionalFiles", "TrimmerRootAssembly", "ProjectCapability"}
"""Items that change nothing about the assembly."""

BASE_USINGS = (
    "System",
    "System.Collections.Generic",
    "System.IO",
    "System.Linq",
    "System.Net.Http",
    "System.Threading",
    "System.Threading.Tasks",
)
WEB_USINGS = (
    "System.Net.Http.Json",
    "Microsoft.AspNetCore.Builder",
    "Microsoft.AspNetCore.Hosting",
    "Microsoft.AspNetCore.Http",
    "Microsoft.AspNetCore.Routing",
    "Microsoft.Extensions.Configuration",
    "Microsoft.Extensions.DependencyInjection",
    "Microsoft.Extensions.Hosting",
    "Microsoft.Extensions.Logging",
)


class ProjectError(Exception):
    """A project is wrong, or uses a part of MSBuild that is not understood without the SDK."""


@dataclass(frozen=True)
class Project:
    """One evaluated project."""

    file: Path
    properties: dict[str, str]
    items: dict[str, tuple[str, ...]]
    """What each kind of item includes."""
    resources: tuple[tuple[str, Path], ...] = ()
    """Name and file of each embedded resource."""
    assemblies: tuple[Path, ...] = ()
    """Files that are referred to as they are."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Version of each package, as Directory.Packages.props has it."""

    def get(self, name: str, default: str = "") -> str:
        """Return a property's value, ``default`` where it is empty."""
        return self.properties.get(name) or default

    def is_on(self, name: str) -> bool:
        """Tell whether a property says true or enable."""
        return self.get(name).lower() in {"true", "enable"}

    @property
    def assembly(self) -> str:
        """Name of what is built, without .dll."""
        return self.get("AssemblyName", self.file.stem)

    @property
    def is_executable(self) -> bool:
        """Whether it has a Main."""
        return self.get("OutputType").lower() == "exe"

    @property
    def references(self) -> tuple[Path, ...]:
        """Projects that it refers to itself."""
        return tuple(_beside(self.file, one) for one in self.items.get("ProjectReference", ()))

    @property
    def usings(self) -> tuple[str, ...]:
        """Namespaces that every file sees."""
        implicit = self.get("ImplicitUsings").lower() in {"true", "enable"}
        own = self.items.get("Using", ())
        if not implicit:
            return own
        return (*BASE_USINGS, *(WEB_USINGS if _is_web(self.properties) else ()), *own)

    def sources(self) -> list[Path]:
        """Every .cs file below the project, outside bin, obj and hidden folders."""
        return sorted(
            source for source in self.file.parent.rglob("*.cs") if _is_source(source, self.file.parent)
        )


def load(file: Path, given: Mapping[str, str] = MappingProxyType({})) -> Project:
    """Evaluate a project: all properties in order first, then all items, as MSBuild does.

    ``given``: what a command line would set with ``-p:``; no file changes it.
    """
    if not file.exists():
        message = f"there is no project {file}"
        raise ProjectError(message)
    properties = {
        "Configuration": CONFIGURATION,
        "Optimize": "true",
        "OutputType": "Library",
        "NoWarn": "1701;1702",
        **given,
    }
    groups: list[tuple[ET.Element, Path]] = []
    for part in (_above(file, "Directory.Build.props"), file, _above(file, "Directory.Packages.props")):
        if part is not None:
            groups += _read(part, properties, given)
    properties.setdefault("RootNamespace", properties.get("AssemblyName", file.stem))
    frameworks = properties.get("TargetFramework") or properties.get("TargetFrameworks") or ""
    if "net8.0" not in frameworks.split(";"):
        message = f"{file}: TargetFramework is {frameworks!r}, not net8.0"
        raise ProjectError(message)
    items: dict[str, tuple[str, ...]] = {}
    resources: list[tuple[str, Path]] = []
    assemblies: list[Path] = []
    if _is_web(properties):
        items["FrameworkReference"] = (ASPNET_REFERENCE,)
    for group, here in groups:
        for element in group:
            if element.tag in WITHOUT_EFFECT or not _holds(element, here, properties):
                continue
            if element.tag == "EmbeddedResource":
                resources.append(_resource(element, here, properties))
            elif element.tag == "Reference" and element.get("HintPath"):
                assemblies.append(_beside(here, _expand(element.get("HintPath", ""), here, properties)))
            else:
                items[element.tag] = (*items.get(element.tag, ()), *_included(element, here, properties))
    _check_versions(file, properties, groups, set(items.pop("PackageVersion", ())))
    versions = {
        one.get("Include", ""): one.get("Version", "")
        for group, _ in groups
        for one in group
        if one.tag == "PackageVersion"
    }
    return Project(file, properties, items, tuple(resources), tuple(assemblies), versions)


def _above(file: Path, name: str) -> Path | None:
    """Return the nearest file of this name in a folder above."""
    return next((folder / name for folder in file.parents if (folder / name).exists()), None)


def _check_versions(
    file: Path, properties: dict[str, str], groups: list[tuple[ET.Element, Path]], central: set[str]
) -> None:
    """Refuse what a restore would: with central versions, each package has one there and none anywhere else."""
    managed = properties.get("ManagePackageVersionsCentrally", "").lower() == "true"
    for one in (one for group, _ in groups for one in group if one.tag == "PackageReference"):
        name, has_version = one.get("Include", ""), one.get("Version") is not None
        if managed and (has_version or name not in central):
            message = f"{file}: the version of {name} belongs into Directory.Packages.props, and only there"
            raise ProjectError(message)
        if not managed and not has_version:
            message = f"{file}: {name} has no version"
            raise ProjectError(message)


def _is_web(properties: dict[str, str]) -> bool:
    return properties.get("UsingMicrosoftNETSdkWeb") == "true"


def _is_source(source: Path, folder: Path) -> bool:
    folders = source.relative_to(folder).parts[:-1]
    return folders[:1] not in {("bin",), ("obj",)} and not any(part.startswith(".") for part in folders)


def _read(
    here: Path, properties: dict[str, str], given: Mapping[str, str]
) -> Iterator[tuple[ET.Element, Path]]:
    """Set the properties of one file; yield its item groups."""
    root = ET.parse(here).getroot()  # noqa: S314  this repository's own files
    match root.get("Sdk"):
        case None | "Microsoft.NET.Sdk":
            pass
        case "Microsoft.NET.Sdk.Web":
            properties |= {"UsingMicrosoftNETSdkWeb": "true", "OutputType": "Exe"}
        case other:
            raise _not_understood(here, f'Sdk="{other}"')
    for group in root:
        if not _holds(group, here, properties):
            continue
        if group.tag == "PropertyGroup":
            for one in group:
                if one.tag not in given and _holds(one, here, properties):
                    properties[one.tag] = _expand((one.text or "").strip(), here, properties)
        elif group.tag == "ItemGroup":
            yield group, here
        elif group.tag == "Import":
            imported = _beside(here, _expand(group.get("Project", ""), here, properties))
            yield from _read(imported, properties, given)
        else:
            raise _not_understood(here, f"<{group.tag}>")


def _included(element: ET.Element, here: Path, properties: dict[str, str]) -> Iterator[str]:
    include = _expand(element.get("Include", ""), here, properties)
    if element.tag not in ITEMS or element.tag == "Compile" or not include or re.search(r"[*?@]", include):
        raise _not_understood(here, f"<{element.tag} {' '.join(element.attrib)}>")
    if element.tag == "PackageReference" and element.get("PrivateAssets", "").lower() == "all":
        return  # analyzers and the like: nothing of them is compiled against
    yield from (part.strip() for part in include.split(";") if part.strip())


def _resource(element: ET.Element, here: Path, properties: dict[str, str]) -> tuple[str, Path]:
    """Return a resource's name, which has to be given, and its file."""
    if set(element.attrib) - {"Condition"} != {"Include", "LogicalName"}:
        raise _not_understood(here, f"<EmbeddedResource {' '.join(element.attrib)}>")
    include = _expand(element.get("Include", ""), here, properties)
    return _expand(element.get("LogicalName", ""), here, properties), _beside(here, include)


def _holds(element: ET.Element, here: Path, properties: dict[str, str]) -> bool:
    condition = element.get("Condition", "")
    if not condition.strip():
        return True
    found = re.fullmatch(r"\s*'([^']*)'\s*(==|!=)\s*'([^']*)'\s*", _expand(condition, here, properties))
    if found is None:
        raise _not_understood(here, f'Condition="{condition}"')
    return (found[1].lower() == found[3].lower()) == (found[2] == "==")


def _expand(text: str, here: Path, properties: dict[str, str]) -> str:
    known = {**properties, "MSBuildThisFileDirectory": f"{here.parent}/"}
    expanded = re.sub(r"\$\((\w+)\)", lambda found: known.get(found[1], ""), text)
    if "$(" in expanded:
        raise _not_understood(here, text)
    return expanded


def _beside(file: Path, relative: str) -> Path:
    return (file.parent / relative.replace("\\", "/")).resolve()


def _not_understood(here: Path, what: str) -> ProjectError:
    return ProjectError(f"{here}: {what} is not understood without the .NET SDK")
