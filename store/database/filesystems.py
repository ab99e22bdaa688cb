"""Finds out whether a file would live on a network file system, where SQLite's locks and WAL are not safe."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

_NETWORK = re.compile(
    r"nfs4?|cifs|smb[23]?|smbfs|ncpfs|afs|afpfs|webdav|davfs|lustre|gpfs|beegfs|ceph|glusterfs|ocfs2|gfs2|"
    r"pvfs2|orangefs|panfs|wekafs|"
    # Some FUSE file systems are local disks (ntfs-3g), so only those known to be remote are refused.
    r"fuse(blk)?\.(sshfs|s3fs|goofys|gcsfuse|blobfuse2?|rclone|glusterfs|ceph|juicefs|davfs2|mount-s3|lustre|weka)"
)
_OCTAL = re.compile(r"\\([0-7]{3})")
_MOUNT_LINE = re.compile(r"^.+? on (?P<point>/.*) \((?P<type>[^,)]+)")


def network_filesystem(path: Path) -> str | None:
    """Return the type of the network file system that holds `path`, such as "nfs4"; None: local, or nobody can tell.

    The file itself need not exist yet.
    """
    if sys.platform == "linux":
        try:
            mounts = parse_mountinfo(Path("/proc/self/mountinfo").read_text(errors="surrogateescape"))
        except OSError:
            return None
    else:
        mounts = parse_mount_output(_mount_output())
    kind = filesystem_of(path.resolve(), mounts)
    return kind if kind is not None and is_network(kind) else None


def is_network(kind: str) -> bool:
    """Return whether a file system type, as mount tables spell it, is one whose files are on another machine."""
    return _NETWORK.fullmatch(kind) is not None


def filesystem_of(path: Path, mounts: list[tuple[str, str]]) -> str | None:
    """Return the type of the deepest mount that holds `path`; of two on one point the later hides the earlier."""
    found: tuple[int, str] | None = None
    for point, kind in mounts:
        depth = len(Path(point).parts)
        if path.is_relative_to(point) and (found is None or depth >= found[0]):
            found = depth, kind
    return found[1] if found else None


def parse_mountinfo(text: str) -> list[tuple[str, str]]:
    """Return (mount point, type) of every line of Linux' /proc/self/mountinfo, in its order."""
    mounts = []
    for line in text.splitlines():
        mount, separator, rest = line.partition(" - ")
        if separator and len(parts := mount.split()) > 4:
            mounts.append((_OCTAL.sub(lambda match: chr(int(match[1], 8)), parts[4]), rest.split()[0]))
    return mounts


def parse_mount_output(text: str) -> list[tuple[str, str]]:
    """Return (mount point, type) of every line that `mount` prints on macOS and the BSDs."""
    return [(match["point"], match["type"].strip()) for match in map(_MOUNT_LINE.match, text.splitlines()) if match]


def _mount_output() -> str:
    try:
        done = subprocess.run(["/sbin/mount"], capture_output=True, text=True, timeout=2, check=False)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout
