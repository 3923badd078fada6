// Asks moed one question and shows the answer: ESP32 with PubSubClient 2.8, a plain MQTT 3.1.1 client.
#include <PubSubClient.h>
#include <WiFi.h>
#ifndef BROKER
#define BROKER "broker.lan"
#define PORT 1883
#endif
const char *NODE = "hall", *CLIENT = "lamp";  // whom we ask, and our level of the topics
const unsigned long AGAIN_MS = 10000;  // an answer takes seconds; then the question is sent again

WiFiClient net;
PubSubClient mqtt(net);
String id;  // the question's name: sent again it stays the same, so it is computed once
unsigned long asked = 0, wait_ms = 0;
bool answered = false;
const String to = String("moed/v1/node/") + NODE + "/c/" + CLIENT + "/";

void ask() {
  String body = "{\"v\":1,\"id\":\"" + id + "\",\"prompt\":\"hi\",\"params\":{\"max_tokens\":64}}";
  mqtt.publish((to + "request").c_str(), body.c_str());  // at QoS 0, all that it knows; called until an answer comes
  asked = millis(), wait_ms = AGAIN_MS;
}

// The text behind a key, as far as this needs JSON; ArduinoJson reads all of it.
String field(const String &json, const char *key) {
  int start = json.indexOf(String("\"") + key + "\":\"");
  if (start < 0) return "";
  int end = start += strlen(key) + 4;
  while (end < (int)json.length() && json[end] != '"') end += json[end] == '\\' ? 2 : 1;
  return json.substring(start, end);
}

void heard(char *, byte *payload, unsigned int length) {
  String json;
  while (length--) json += (char)*payload++;
  String type = field(json, "type");
  bool again = json.indexOf("\"retryable\":true") >= 0;                 // the next `ask` may find room
  if (answered || again || !(type == "result" || type == "error")) return;  // or a copy, or a part
  answered = true;
  Serial.println("answer: " + field(json, type == "result" ? "text" : "message"));
  mqtt.publish((to + "ack").c_str(), id.c_str());  // the node may forget it
}

void setup() {
  WiFi.begin("network", "password");
  mqtt.setServer(BROKER, PORT);
  mqtt.setBufferSize(2048);  // the default of 256 bytes drops answers without a word
  mqtt.setCallback(heard);
  id = String(millis()) + "-" + String(random(1000000));
}

void loop() {
  if (!mqtt.connected()) {
    if (!mqtt.connect(CLIENT)) return delay(1000);
    mqtt.subscribe((String("moed/v1/c/") + CLIENT + "/r/" + id).c_str(), 1);
    wait_ms = 0;
  }
  mqtt.loop();
  if (!answered && millis() - asked >= wait_ms) ask();
}
