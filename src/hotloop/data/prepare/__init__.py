"""Market bars from a database into a cache that training reads: `hotloop prepare forecast` and the embedded default.

Reading order: bars (records), database, reading (checks), indicators, symbol, record, workers, run; cache reads the
result back. No torch anywhere. The heavy packages are imported where they are used.
"""

from hotloop.data.prepare.bars import PrepareOptions as PrepareOptions
from hotloop.data.prepare.run import prepare as prepare
from hotloop.data.prepare.run import prepare_embedded as prepare_embedded
