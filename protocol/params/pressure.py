"""What is asked of pressure and of the past."""

from typing import Annotated

from pydantic import Field

from protocol.params.fields import SECTIONS_MAX, AnalyticsSection, Duration, Name, Params, at_most


class GetPressureParams(Params):
    """Ask how close devices are to running out, and what would help."""

    device_id: Name | None = None


class GetAnalyticsParams(Params):
    """Ask what has happened lately."""

    device_id: Name | None = None
    time_range: Duration = "1h"
    include: (
        Annotated[
            tuple[AnalyticsSection, ...],
            Field(min_length=1, max_length=SECTIONS_MAX, strict=False),
            at_most(SECTIONS_MAX),
        ]
        | None
    ) = None
    """Sections to answer; null for all."""


class GetMetricsParams(Params):
    """Ask for all figures as a metrics collector reads them."""


class GetOptimizationRecommendationsParams(Params):
    """Ask for the actions worth taking, over all devices, cheapest per byte first."""

    device_id: Name | None = None
