"""Undoing gzip piece by piece, so that a small body can never become a large piece of memory."""

import zlib
from collections.abc import Iterator

PIECE_BYTES = 1 << 16
GZIP_MAGIC = b"\x1f\x8b"
_GZIP = 16 + zlib.MAX_WBITS


class Inflater:
    """Undoes gzip; what follows the last member is ignored, as browsers do."""

    def __init__(self) -> None:
        """Begin before the first byte."""
        self._member = zlib.decompressobj(_GZIP)
        self._after = b""

    @property
    def is_complete(self) -> bool:
        """Whether the data ended where its compression did."""
        return self._member.eof

    def feed(self, data: bytes) -> Iterator[bytes]:
        """What these further bytes hold, in pieces of 64 KiB at most.

        Raises:
            zlib.error: They are not gzip.
        """
        while True:
            if self._member.eof:
                self._after += data
                if not self._after.startswith(GZIP_MAGIC):
                    self._after = self._after[: len(GZIP_MAGIC)]
                    return
                data, self._after = self._after, b""
                self._member = zlib.decompressobj(_GZIP)
            piece = self._member.decompress(data, PIECE_BYTES)
            if piece:
                yield piece
            data = self._member.unused_data if self._member.eof else self._member.unconsumed_tail
            if not data and len(piece) < PIECE_BYTES:
                return
