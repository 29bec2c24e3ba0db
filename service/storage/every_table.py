"""The whole schema: imports every module of tables, so that `metadata` has them all."""

from __future__ import annotations

from service.storage import (
    box_tables,
    certificate_tables,
    enrolment_tables,
    job_tables,
    operator_tables,
    tables,
    warehouse_tables,
)

MODULES = (tables, operator_tables, warehouse_tables, box_tables, enrolment_tables, job_tables, certificate_tables)
metadata = tables.metadata
