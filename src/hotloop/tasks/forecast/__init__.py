"""The `forecast` workload: LSTM, GRU or Transformer on market bars and other series. Importing it is cheap."""
