"""What a rank's log and exit say about its end.

In: the ``RankExit`` that an agent observed, with the last lines of the rank's log. Out: one judgement, whose signature
is equal for failures that look alike, so that "the same failure again" can be told from a new one.
"""

from outrider_analysis.job_log.judgement import ExitJudgement as ExitJudgement
from outrider_analysis.job_log.judgement import judge as judge
