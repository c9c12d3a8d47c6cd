"""What each action takes in ``data``. Strict: no coercion, and an unknown key is refused by name.

``device_id: "all"`` means the same as leaving it out wherever several devices can be answered for.
"""

from protocol.params.allocations import *  # noqa: F403 - one name for all requests
from protocol.params.choices import *  # noqa: F403 - one name for all requests
from protocol.params.consumers import *  # noqa: F403 - one name for all requests
from protocol.params.fields import *  # noqa: F403 - one name for all requests
from protocol.params.models import *  # noqa: F403 - one name for all requests
from protocol.params.plans import *  # noqa: F403 - one name for all requests
from protocol.params.pressure import *  # noqa: F403 - one name for all requests
from protocol.params.session import *  # noqa: F403 - one name for all requests
