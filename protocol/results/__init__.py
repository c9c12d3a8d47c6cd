"""What each action answers: frozen records that are written as they are, every field always present.

Standard library only (plus the annotation types that pydantic reads), so that the layers below the
instructor may build them. ``protocol.contract`` turns them into validators and JSON Schemas.
"""

from protocol.results.allocations import *  # noqa: F403 - one name for all answers
from protocol.results.consumers import *  # noqa: F403 - one name for all answers
from protocol.results.events import *  # noqa: F403 - one name for all answers
from protocol.results.fleet import *  # noqa: F403 - one name for all answers
from protocol.results.models import *  # noqa: F403 - one name for all answers
from protocol.results.numbers import *  # noqa: F403 - one name for all answers
from protocol.results.pieces import *  # noqa: F403 - one name for all answers
from protocol.results.plans import *  # noqa: F403 - one name for all answers
from protocol.results.pressure import *  # noqa: F403 - one name for all answers
from protocol.results.reclaim import *  # noqa: F403 - one name for all answers
from protocol.results.session import *  # noqa: F403 - one name for all answers
from protocol.results.status import *  # noqa: F403 - one name for all answers
