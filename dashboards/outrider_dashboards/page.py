"""The page as Streamlit runs it, once for every viewer: `streamlit run` is given this file by __main__."""

from outrider_dashboards import board

board.show()
