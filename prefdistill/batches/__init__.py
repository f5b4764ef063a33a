"""The Batch API: calls that can wait are sent as one file and fetched when the server is done with them.

A judge stage that may use it works in passes (see `prefdistill.passes`): a call whose reply is in the request cache is
answered, any other is collected and its group set aside; then everything collected is sent, waited for and put into
the request cache, and the next pass goes on from there.
"""

from prefdistill.batches.desk import BatchDesk
from prefdistill.batches.door import UNWANTED, BatchDoor, SetAside

__all__ = ["UNWANTED", "BatchDesk", "BatchDoor", "SetAside"]
