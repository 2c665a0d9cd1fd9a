"""For processes that shall have imported what is heavy before they are forked."""

from hindcast.datadocs import import_great_expectations

import_great_expectations()
