"""Errors of the operating system as lines for people: which path, why not, and what to do."""

import errno
import os

from antvisionps.core.errors import AntVisionPSError

OF_THE_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO, errno.ESTALE})
"""What writing to an open file can fail with. Such an error has no file name."""

_REMEDY = {
    errno.ENOSPC: "make room on that disk, or write to another one",
    errno.EDQUOT: "make room within your quota, or write to another disk",
    errno.EROFS: "that disk is mounted read-only; write to another one, or mount it for writing",
    errno.EFBIG: "raise the limit of file sizes (`ulimit -f unlimited`), or write to another disk",
    errno.EIO: "the disk fails or is gone; `dmesg` tells more",
    errno.ESTALE: "the network disk was lost; mount it again",
    errno.EACCES: "change its permissions, or name another place",
    errno.EPERM: "change its permissions, or name another place",
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "a part of this path is no folder; name another place",
    errno.EISDIR: "expected a file; name one",
    errno.EEXIST: "remove what stands there, or name another place",
    errno.ENOTEMPTY: "remove what stands there, or name another place",
    errno.EBUSY: "another program or a mount holds it; name another place",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: "symbolic links there lead in a circle; remove one",
    errno.EMFILE: "raise the limit of open files (`ulimit -n 4096`), or lower runtime.workers",
    errno.ENFILE: "close other programs, or lower runtime.workers",
    errno.ENOMEM: "close other programs, or lower runtime.workers",
    errno.EAGAIN: "close other programs, or lower runtime.workers",
}


def explain(error: BaseException) -> str | None:
    """What people are told of an error of ours, or of the operating system: `path: reason; remedy`. None where only its
    traceback tells more, as of an OSError that a library made up."""
    if isinstance(error, AntVisionPSError):
        return str(error)
    if not isinstance(error, OSError) or error.errno is None:
        return None
    reason = os.strerror(error.errno) if error.errno in errno.errorcode else error.strerror
    where = error.filename if error.filename2 is None else error.filename2
    place = "" if where is None else f"{where}: "
    return f"{place}{reason}; {_REMEDY.get(error.errno, 'mend that, and run the command again')}"
