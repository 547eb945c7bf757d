"""A recorded drive: judged, compared with another version, written out again for viewers."""
