"""What tests of several packages share: stand-ins for services, builders of records, tiny models."""
