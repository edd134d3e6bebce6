"""The result of a sweep on disk: a zarr group whose chunks are those of the sweep.

A chunk is a file for each variable, written beside its place and renamed; a mark comes last and says that the chunk is
complete. So whatever ends the process, every chunk is there or is not. Every file closes with a CRC-32C of what it
holds, and the mark lists them, so that the file of another chunk is found as well as a damaged one. Processes that work
on one store write the same files with the same content.
"""

import json
import os
import shutil
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, TYPE_CHECKING

import numpy as np
import xarray as xr

from .chunks import Chunk
from .layout import Layout

if TYPE_CHECKING:
    import zarr

# Where the marks are: what reads zarr does not look into the folder of an array.
_MARKS = Path("status", "finished")
_FORMAT = 2
# Of zstd: what it saves more at higher ones takes longer.
_LEVEL = 1
# Files of zeros and NaN are written as well: a missing file is a lost one. This setting belongs to the process.
_SETTING = threading.Lock()


class OnDisk:
    """A store, made or opened. Raises ValueError if it was made with other arguments or is damaged, OSError if it
    cannot be made."""

    def __init__(self, path: Path, layout: Layout):
        import zarr

        self.path, self.layout = path, layout
        there = path.exists() and not (path.is_dir() and not any(path.iterdir()))
        if there:
            self._compare()
        else:
            try:
                self._make()
            except OSError as error:
                raise OSError(
                    f"store {path} cannot be made: {error.strerror or error}; name a folder that can be written, or "
                    "leave store out."
                ) from error
        with _SETTING, zarr.config.set({"array.write_empty_chunks": True}):
            self.arrays: dict[str, Any] = self._described(lambda: self._opened(compare=there))
        attributes = json.loads((path / "zarr.json").read_text())["attributes"]
        self.attributes = {name: value for name, value in attributes.items() if name != "gflow_sweep"}

    # -- chunks --------------------------------------------------------------------------------------------------------

    def holds(self, chunk: Chunk) -> bool:
        """Whether the chunk is complete. One with a missing or damaged file, or that of another chunk, is an error."""
        mark = self._mark(chunk)
        if not mark.exists():
            return False
        try:
            told = json.loads(mark.read_text())
            faults = {mark: "" if told["begin"] == list(chunk.begin) else "is that of another chunk"}
            faults |= {file: _fault(file, told["crc32c"][name]) for name, file in self._files(chunk).items()}
        except (OSError, ValueError, KeyError, TypeError):
            faults = {mark: "is damaged"}
        for file, fault in faults.items():
            if fault:
                raise ValueError(
                    f"{file}, a part of the store, {fault}; delete {mark}, and the same call computes its "
                    f"{chunk.size} points again. All other finished chunks stay as they are."
                )
        return True

    def write(self, chunk: Chunk, values: dict[str, np.ndarray]) -> None:
        for name, value in values.items():
            if value.dtype.kind in "fi":
                self._write_numbers(name, chunk, value)
            else:
                self.arrays[name][chunk.region] = value
        sums = {name: _end(file).hex() for name, file in self._files(chunk).items()}
        _put(self._mark(chunk), json.dumps({"begin": chunk.begin, "crc32c": sums}).encode())

    def _write_numbers(self, name: str, chunk: Chunk, values: np.ndarray) -> None:
        """A chunk's file as zarr writes it, in a tenth of the time: a sweep waits for it."""
        import google_crc32c
        from numcodecs.zstd import Zstd

        if not values.size:
            return
        array = self.arrays[name]
        whole = np.full(array.chunks, array.fill_value, array.dtype.newbyteorder("<"))
        whole[tuple(slice(0, n) for n in values.shape)] = values
        content = bytes(Zstd(level=_LEVEL).encode(whole.tobytes()))
        _put(self._file(name, chunk), content + google_crc32c.value(content).to_bytes(4, "little"))

    def dataset(self) -> xr.Dataset:
        ds = xr.open_zarr(self.path, chunks=None, consolidated=False, zarr_format=3)
        ds = ds[[v.name for v in self.layout.variables]]
        return self.layout.arranged(ds.drop_attrs(deep=False).assign_attrs(self.attributes))

    def require_versions(self) -> None:
        """What is left to do is to be done by the versions that did the rest."""
        for name, version in self.layout.attributes.items():
            if name.startswith("version_") and self.attributes.get(name) != version:
                raise ValueError(
                    f"store {self.path} is unfinished and was made with {name.removeprefix('version_')} "
                    f"{self.attributes.get(name)}, and here is {version}; go on with the same versions or choose "
                    "another store."
                )

    def _described(self, read: Callable[[], Any]) -> Any:
        """What `read` makes of the files that describe the store; an error that says so if one is damaged."""
        try:
            return read()
        except Exception as error:
            if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
                raise
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> ValueError:
        return ValueError(
            f"store {self.path} is damaged in a file that describes it ({type(error).__name__}: {error}); copy the "
            "files zarr.json and the folders of the dimensions from a new store of the same call. All finished chunks "
            "stay as they are."
        )

    def _coordinates(self) -> dict[str, np.ndarray]:
        import zarr

        group, found = zarr.open_group(self.path, mode="r", zarr_format=3), {}
        for name in self.layout.coordinates():
            for file in ("zarr.json", "c/0"):
                if not (self.path / name / file).exists():
                    raise ValueError(f"{name}/{file} is missing")
            array: Any = group[name]
            try:
                found[name] = np.asarray(array[...])
            except Exception as error:
                raise ValueError(f"{name}/c/0: {type(error).__name__}: {error}") from error
        return found

    def _opened(self, compare: bool) -> dict[str, Any]:
        """The arrays, each described as a new store of this layout describes it."""
        import zarr
        from zarr.storage import MemoryStore

        group = zarr.open_group(self.path, mode="r+", zarr_format=3)
        if not compare:
            return {v.name: group[v.name] for v in self.layout.variables}
        new = zarr.create_group(MemoryStore(), zarr_format=3)
        self._make_arrays(new)
        for name in new.array_keys():
            array: Any = group[name]
            found, wanted = array.metadata.to_dict(), new[name].metadata.to_dict()
            # Attributes beside its own are notes of its user.
            if {**wanted, "attributes": found["attributes"] | wanted["attributes"]} != found:
                raise ValueError(f"{name}/zarr.json describes another array")
        return {v.name: group[v.name] for v in self.layout.variables}

    def _place(self, chunk: Chunk) -> list[str]:
        return [str(b // side) for b, side in zip(chunk.begin, self.layout.chunk, strict=True)]

    def _file(self, name: str, chunk: Chunk) -> Path:
        inner = next(v.shape for v in self.layout.variables if v.name == name)
        return self.path.joinpath(name, "c", *self._place(chunk), *("0" for _ in inner))

    def _files(self, chunk: Chunk) -> dict[str, Path]:
        return {v.name: self._file(v.name, chunk) for v in self.layout.variables if 0 not in v.shape}

    def _mark(self, chunk: Chunk) -> Path:
        return self.path / _MARKS / ".".join(self._place(chunk))

    # -- the whole -----------------------------------------------------------------------------------------------------

    def _make(self) -> None:
        """Under another name first, so that the store is there as a whole or not at all."""
        import zarr

        part = self.path.with_name(f".{self.path.name}.{uuid.uuid4().hex}")
        part.parent.mkdir(parents=True, exist_ok=True)
        try:
            group = zarr.create_group(part, zarr_format=3, attributes=self._identity())
            with _SETTING, zarr.config.set({"array.write_empty_chunks": True}):
                self._make_arrays(group)
            os.rename(part, self.path)
        except BaseException as error:
            shutil.rmtree(part, ignore_errors=True)
            # Another process may have been quicker.
            if not isinstance(error, OSError) or not (self.path / "zarr.json").exists():
                raise
            self._compare()

    def _make_arrays(self, group: "zarr.Group") -> None:
        from zarr.codecs import Crc32cCodec, ZstdCodec

        for name, (dims, values, *about) in self.layout.coordinates().items():
            array = group.create_array(
                name,
                shape=values.shape,
                dtype="str" if isinstance(values.dtype, np.dtypes.StringDType) else values.dtype,
                dimension_names=(dims,),
                attributes=about[0] if about else None,
            )
            array[...] = values
        for variable in self.layout.variables:
            group.create_array(
                variable.name,
                shape=(*self.layout.shape, *variable.shape),
                chunks=(*self.layout.chunk, *(max(n, 1) for n in variable.shape)),
                dtype="str" if variable.kind is str else variable.dtype,
                fill_value=variable.missing,
                compressors=[ZstdCodec(level=_LEVEL), Crc32cCodec()],
                dimension_names=(*self.layout.dims, *variable.dims),
                attributes=variable.about,
            )

    def _identity(self) -> dict[str, Any]:
        about = {v.name: [list(v.dims), list(v.shape), v.kind.__name__] for v in self.layout.variables}
        own = {"format": _FORMAT, "dims": list(self.layout.dims), "chunk": list(self.layout.chunk), "variables": about}
        return {**self.layout.attributes, "gflow_sweep": own}

    def _compare(self) -> None:
        """Refuse what is not a store, and one that other arguments made, with the name of the difference."""
        remedy = "choose another store or delete it"
        try:
            found = json.loads((self.path / "zarr.json").read_text())["attributes"]
            own = found.pop("gflow_sweep")
            if missing := {"format", "dims", "chunk", "variables"} - set(own):
                raise ValueError(f"{min(missing)} is missing in zarr.json")
            if not all(isinstance(name, str) for name in own["dims"]):
                raise ValueError("dims are no names in zarr.json")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            if (self.path / "status" / "zarr.json").exists():
                raise self._damaged(error) from error
            raise ValueError(f"store {self.path} is there, and is no store of gflow.sweep; {remedy}.") from error
        mine = json.loads(json.dumps(self._identity()))
        wanted = mine.pop("gflow_sweep")
        if own.get("format") != wanted["format"]:
            raise ValueError(f"store {self.path} was written by another version of gflow; {remedy}.")
        if own["dims"] != wanted["dims"]:
            raise ValueError(
                f"store {self.path} was made over {', '.join(own['dims'])}, and this call is over "
                f"{', '.join(wanted['dims'])}; {remedy}."
            )
        if found.get("digits") != mine.get("digits"):
            raise ValueError(
                f"store {self.path} was made with digits = {found.get('digits')}, and this call has "
                f"{mine.get('digits')}; {remedy}."
            )
        old = self._described(self._coordinates)
        for name, (_, values, *_) in self.layout.coordinates().items():
            if not np.array_equal(np.sort(old[name]), np.sort(values)):
                raise ValueError(
                    f"store {self.path} was made with {name} = {_few(old[name])}, and this call has {_few(values)}; "
                    f"{remedy}."
                )
            if not np.array_equal(old[name], values):
                raise ValueError(f"store {self.path} was made with {name} in another order; {remedy}.")
            if old[name].dtype.kind in "iufb" and old[name].dtype != values.dtype:
                raise ValueError(
                    f"store {self.path} was made with {name} as {old[name].dtype}, and this call has {values.dtype}; "
                    f"{remedy}."
                )
        # How make_model and what it is given are written does not matter, what is made does.
        told = ("make_model", "over_", "version_")
        # Others in the store are notes of its user.
        for name in [name for name in mine if not name.startswith(told)]:
            if found.get(name) != mine.get(name):
                what = _NAMES.get(name, name)
                if name.endswith("sha256"):
                    raise ValueError(f"store {self.path} was made with other {what}; {remedy}.")
                raise ValueError(
                    f"store {self.path} was made with {what} = {found.get(name)!r}, and this call has "
                    f"{mine.get(name)!r}; {remedy}."
                )
        for name in ("variables", "chunk"):
            if own[name] != wanted[name]:
                raise ValueError(f"store {self.path} was made with other {_NAMES[name]}; {remedy}.")


_NAMES = {
    "data_sha256": "data",
    "models_sha256": "models (another make_model, or values that it closes over)",
    "loss_sha256": "losses (what they compute differs)",
    "clock_sha256": "clock (what it computes differs)",
    "solver_sha256": "solver (a function in it differs)",
    "metrics_sha256": "metrics (what they compute differs)",
    "variables": "variables",
    "chunk": "chunk sizes",
}


def _fault(file: Path, crc32c: str) -> str:
    """What is wrong with a chunk's file, which is to end with this CRC-32C of the rest; nothing: an empty text."""
    import google_crc32c

    try:
        content = file.read_bytes()
    except FileNotFoundError:
        return "is missing"
    except (IsADirectoryError, NotADirectoryError):
        return "is no file"
    if len(content) <= 4 or google_crc32c.value(content[:-4]) != int.from_bytes(content[-4:], "little"):
        return "is damaged"
    return "" if content[-4:].hex() == crc32c else "is that of another chunk"


def _end(file: Path) -> bytes:
    """The CRC-32C that a chunk's file ends with."""
    with file.open("rb") as content:
        content.seek(-4, os.SEEK_END)
        return content.read()


def _put(file: Path, content: bytes) -> None:
    """The file as a whole, or as it was."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f"{file.name}.{uuid.uuid4().hex}.partial")
    try:
        part.write_bytes(content)
        os.replace(part, file)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _few(values: np.ndarray) -> str:
    shown = [str(v) for v in values.tolist()]
    return ", ".join(shown) if len(shown) <= 6 else f"{', '.join(shown[:2])}, ... {shown[-1]} ({len(shown)} values)"
