"""What tests of several packages share: servers, photos, waiting for conditions, free ports, a small network."""
