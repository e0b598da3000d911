"""Generated from proto/ais/v1 by `make proto`; do not edit."""
