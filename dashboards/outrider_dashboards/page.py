import streamlit as st

st.set_page_config(page_title="Outrider", layout="wide")
st.write("hello")
