"""What of a run is done and what is owed, read from its files alone: `prefdistill status RUN`."""

from prefdistill.status.reading import read_status as read_status
from prefdistill.status.showing import show_status as show_status
