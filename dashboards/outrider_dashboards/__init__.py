"""The web page of Outrider: what the controller's API says, shown with Streamlit."""
