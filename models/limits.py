"""The numbers of the domain, each with its reason."""

# A message is a thing to read, not a file; ten thousand characters is several printed pages.
MAX_TEXT_CHARACTERS = 10_000
# The app's own JSON beside a text; larger things belong into files.
MAX_DATA_BYTES = 8 * 1024
MAX_MENTIONS = 100
MAX_CLIENT_ID_CHARACTERS = 64
MAX_TITLE_CHARACTERS = 200
MAX_NAME_CHARACTERS = 100
# What the app's own backend calls people and conversations.
MAX_EXTERNAL_ID_CHARACTERS = 255
# Receipts and typing stay useful, and one member list page stays small against it.
MAX_GROUP_MEMBERS = 5_000
# Typing and live receipts of a large group are quadratic: above this many members they are not sent.
MAX_MEMBERS_FOR_HINTS = 100
# A typing indicator that nobody renewed disappears.
TYPING_SECONDS = 6
# Counting further costs more than anyone reads from the number.
MAX_UNREAD_COUNT = 1_000
MAX_PAGE = 100
DEFAULT_PAGE = 50
# What clients of the protocol can process in one reply.
MAX_RECOVERED_PUBLICATIONS = 300
MAX_RECOVERED_BYTES = 512 * 1024
# Conversations the server puts on a connection; the rest wait for their first publication.
MAX_SUBSCRIBED_CONVERSATIONS = 200
INITIAL_SUBSCRIBED_CONVERSATIONS = 100
MAX_KNOWN_CONVERSATIONS = 2_000
MAX_DEVICES_PER_USER = 20
MAX_SEARCH_RESULTS = 20
# Nobody lets it ring for longer.
CALL_SECONDS = 30
# Whose phone rings has to answer: in a crowd nobody does.
MAX_MEMBERS_TO_RING = 100
# What an app has to say about a call fits beside everything else in the 4,096 bytes of a push.
MAX_CALL_DATA_BYTES = 1024
# Redialling is fine; ringing somebody out of their sleep is not.
MAX_CALLS_A_MINUTE = 10
# Whoever sees whether pushes arrive looks at the phone in between.
PUSH_TEST_EVERY_SECONDS = 10
# What has not arrived by then is answer enough.
PUSH_TEST_SECONDS = 300
