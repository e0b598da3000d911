"""Services under floods of strangers and faulty peers: `ais bench floods`."""
