"""What partner services, such as a TV operator's business system, do here: boxes, users, entitlements."""
