// The interface of PubSubClient 2.8 and what it says on the wire: MQTT 3.1.1, publishing at QoS 0, subscribing at 0 or 1,
// dropping what is larger than its buffer.
#pragma once
#include "WiFi.h"

class PubSubClient {
 public:
  explicit PubSubClient(WiFiClient &net) : net_(net) {}
  void setServer(const char *host, int port) { host_ = host, port_ = port; }
  void setBufferSize(unsigned int size) { size_ = size; }
  void setCallback(void (*heard)(char *, byte *, unsigned int)) { heard_ = heard; }
  bool connected() const { return net_.connected(); }

  bool connect(const char *id) {
    if (!net_.connect(host_, port_)) return false;
    send(0x10, text("MQTT") + std::string("\x04\x02\x00\x0f", 4) + text(id));
    std::string body;
    if (receive(body) == 0x20 && body.size() == 2 && body[1] == 0) return true;
    net_.stop();
    return false;
  }
  bool subscribe(const char *topic, int qos) {
    return send(0x82, std::string("\x00\x02", 2) + text(topic) + static_cast<char>(qos));
  }
  bool publish(const char *topic, const char *payload) { return send(0x30, text(topic) + payload); }

  bool loop() {
    if (millis() - pinged_ > 10000) send(0xC0, ""), pinged_ = millis();
    while (net_.available(10)) {
      std::string body;
      int kind = receive(body);
      if (kind < 0 || (kind & 0xF0) != 0x30 || body.size() < 2) continue;
      size_t length = static_cast<byte>(body[0]) << 8 | static_cast<byte>(body[1]), start = 2 + length;
      std::string topic = body.substr(2, length);
      if (kind & 6) send(0x40, body.substr(start, 2)), start += 2;
      if (body.size() <= size_) heard_(&topic[0], reinterpret_cast<byte *>(&body[start]), body.size() - start);
    }
    return connected();
  }

 private:
  static std::string text(const std::string &s) {
    return std::string({static_cast<char>(s.size() >> 8), static_cast<char>(s.size())}) + s;
  }
  bool send(int kind, const std::string &body) {
    std::string head(1, static_cast<char>(kind));
    size_t length = body.size();
    do head += static_cast<char>((length & 127) | (length > 127 ? 128 : 0));
    while (length >>= 7);
    net_.write(head + body);
    return connected();
  }
  int receive(std::string &body) {
    int kind = net_.read(), digit = 128, length = 0;
    for (int shift = 0; digit > 127 && connected(); shift += 7) digit = net_.read(), length |= (digit & 127) << shift;
    while (connected() && static_cast<int>(body.size()) < length) body += static_cast<char>(net_.read());
    return connected() ? kind : -1;
  }

  WiFiClient &net_;
  const char *host_ = "";
  int port_ = 1883;
  unsigned int size_ = 256;
  unsigned long pinged_ = millis();
  void (*heard_)(char *, byte *, unsigned int) = nullptr;
};
