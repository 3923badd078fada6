"""Words for invented tools and parameters: a wide pool, so that a model has to read them.

A role has plain words, compounds of a word and a qualifier, and, where type and place tell what a parameter is
for, words that mean nothing. Which side of the border a word lies on is decided by the hash of the finished word.
"""
from corpus.coined import coin
from corpus.names import ENDINGS, SYLLABLES
from corpus.split import is_held_out

VERBS = {
    "on": "turn_on;switch_on;power_on;enable;activate;start;energize;power_up;set_on;engage;run;light_up;put_on;boot;wake;fire_up;start_up;make_live;connect;begin;launch;turn_on_now;spin_up;bring_up".split(";"),
    "off": "turn_off;switch_off;power_off;disable;deactivate;stop;shut_down;power_down;set_off;disengage;halt;kill;put_off;sleep;cut;shut_off;de_energize;disconnect;end;quit;turn_off_now;spin_down;bring_down;cease".split(";"),
    "open": "open;open_up;raise;unfold;open_device;set_open;open_it;move_up;lift;uncover;roll_up;pull_up;open_fully;expose;extend;unseal;draw_back".split(";"),
    "close": "close;shut;lower;fold;close_device;set_closed;close_it;move_down;seal;cover_up;roll_down;pull_down;close_fully;retract;draw_over;block;shut_it".split(";"),
    "lock": "lock;secure;lock_up;bolt;engage_lock;set_locked;lock_door;latch;make_secure;deadbolt;throw_bolt;lock_now;bar".split(";"),
    "unlock": "unlock;release;unbolt;open_lock;disengage_lock;set_unlocked;unlock_door;unlatch;unsecure;draw_bolt;unlock_now;unbar;free".split(";"),
    "play": "play;resume;continue_playback;media_play;start_playback;unpause;play_on;carry_on;resume_media;go_on;playback_start".split(";"),
    "pause": "pause;hold;pause_playback;media_pause;stop_playback;freeze;suspend;interrupt;pause_media;playback_hold;break_playback".split(";"),
    "clean": "clean;start_cleaning;vacuum_start;sweep;begin_cleaning;run_vacuum;clean_floor;hoover;scrub;start_sweep;cleaning_run".split(";"),
    "dock": "dock;go_home;return_to_base;send_home;park;recharge;go_to_dock;call_back;return_home;back_to_station;retire".split(";"),
    "brightness": "set_brightness;dim;set_light_level;brightness;adjust_brightness;set_dimmer;light_level;set_luminance;dim_to;illuminate;set_intensity;lamp_level;glow;change_brightness;dimmer;light_output".split(";"),
    "color": "set_color;set_colour;paint_light;color;change_color;tint;light_color;set_hue;pick_color;shade_of_light;colorize;lamp_colour;set_tint".split(";"),
    "position": "set_position;move_to;position;set_opening;adjust_position;travel_to;set_cover;set_aperture;drive_to;opening_degree;go_to_position;shift_to;set_travel".split(";"),
    "temperature": "set_temperature;set_temp;set_setpoint;temperature;adjust_temperature;heat_to;set_target;climate_set;thermostat_set;set_degrees;warm_to;room_temperature;setpoint_write;change_temperature;target_heat".split(";"),
    "mode": "set_mode;change_mode;mode;set_hvac_mode;select_mode;operation_mode;climate_mode;hvac_mode;choose_mode;switch_mode;air_mode;mode_select".split(";"),
    "speed": "set_speed;speed;fan_speed;adjust_speed;change_speed;set_rate;run_at;drive_speed;spin;set_rpm_percent;velocity;set_pace;motor_rate".split(";"),
    "volume": "set_volume;volume;adjust_volume;change_volume;sound_level;set_loudness;audio_level;speaker_level;loudness;set_sound;audio_gain".split(";"),
    "timer": "start_timer;set_timer;timer;new_timer;create_timer;add_timer;countdown;remind_in;timer_start;count_down;egg_timer;begin_timer;schedule_bell;alarm_in".split(";"),
    "timer_cancel": "cancel_timer;stop_timer;delete_timer;remove_timer;timer_stop;clear_timer;abort_timer;drop_timer;end_timer;forget_timer;timer_off;kill_timer".split(";"),
    "timer_status": "timer_status;timer_left;remaining_time;check_timer;ask_timer;timer_info;time_left;query_timer".split(";"),
    "timer_pause": "pause_timer;hold_timer;timer_pause;freeze_timer;suspend_timer;timer_hold;halt_timer".split(";"),
    "timer_resume": "resume_timer;unpause_timer;continue_timer;timer_resume;restart_timer;timer_go_on;unfreeze_timer".split(";"),
    "rule": "add_rule;watch;alert_when;notify_if;create_alert;monitor;set_alarm_limit;subscribe;add_alert;guard;watch_limit;tell_when;new_alarm;warn_if;set_watch;limit_alert".split(";"),
    "read": "get_state;read;query;status;get_status;lookup;read_state;fetch_state;inspect;get_value;check;device_state;poll;measure;look_at;ask_device;current_state;report;sense;peek".split(";"),
    "stats": "sensor_stats;statistics;history;aggregate;summarize;get_history;trend;query_series;analyze;series_stats;telemetry_stats;compute;past_values;rollup;measure_over;log_stats".split(";"),
}
GROUPS = "control;control_device;device_control;set_device;actuate;command;operate;execute;device_action;act;set_state;switch;do;apply;change;manage;device_command;iot_command;send_command;update_device;handle;steer;invoke;dispatch;perform;run_action;trigger;drive;issue;request_action".split(";")
PROPERTIES = "write_property;set_property;write;put_value;set_value;update_attribute;set_attribute;write_attribute;assign;property_write;set_point;put;patch;store;modify;edit_property;write_point;push_value;configure;adjust".split(";")
PAIR_NAMES = {
    "on": "set_power;set_switch;set_relay;power;toggle_power;power_control;supply;relay_write;switch_state;set_running;run_control;power_state;mains",
    "open": "open_close;set_open;open_control;move;shutter;set_gate;cover_move;opening;flap;set_cover_state;blind_control;valve_state",
    "lock": "lock_unlock;set_lock;lock_control;lock_state;bolt_control;door_security;set_bolt;latch_state;door_lock;secure_state",
    "play": "play_pause;set_play;play_control;playback;media_control;transport;player_state;media_state;set_playback;player",
    "clean": "clean_dock;set_clean;clean_control;robot;vacuum_control;robot_task;sweeper;vacuum_state;robot_command;cleaner",
}
PARAMS = {
    "device": "device;name;target;entity;thing;id;item;appliance;unit;which;object;node;asset;equipment;machine;component;element;apparatus;instrument;fixture;endpoint;module;tag;resource;gadget;subject;recipient;actuator;address;handle;label;identifier;designation;host;station;point;accessory;product;part;hardware;controller;piece;body;what_device;member;peer;slot;gear",
    "area": "area;room;zone;location;place;where;space;section;region;site;spot;sector;quarter;compartment;hall;premises;chamber;district;part_of_house;venue;surroundings;bay",
    "floor": "floor;level;storey;deck;tier;story;flight;elevation",
    "kind": "kind;type;domain;category;class;sort;family;genre;group;species;variety;classification;role;kind_of_thing;breed;model_class",
    "value": "value;level;amount;to;setting;target_value;new_value;val;data;set_to;quantity;degree;magnitude;measure;figure;number;input;content;payload;desired;goal;reading;wanted;argument;size;intensity;strength;percent_or_word;written;final;result;aim;extent",
    "action": "action;command;state;operation;mode;cmd;verb;what;do;deed;task;instruction;order;function;op;request;directive;move;method;service;activity;step;choice;control;change;act",
    "property": "property;attribute;field;prop;key;parameter;characteristic;feature;aspect;trait;quality;variable;register;channel;facet;member_name;quantity_name;point_name",
    "hours": "hours;hour;h;hrs;hour_count;n_hours;hrs_part;full_hours", "minutes": "minutes;minute;min;mins;m;minute_count;n_minutes;mins_part",
    "seconds": "seconds;second;sec;secs;s;second_count;n_seconds;secs_part",
    "label": "label;title;timer;timer_name;purpose;caption;subject_line;reason;tag_text;note;topic;heading;called;description;remark;about",
    "above": "above;over;high;max;upper;greater_than;more_than;upper_limit;exceeds;ceiling;high_limit;gt;maximum;rises_to;top",
    "below": "below;under;low;min;lower;less_than;lower_limit;beneath;floor_value;low_limit;lt;minimum;falls_to;bottom;underneath",
    "operation": "operation;op;function;statistic;aggregate;measure;kind;what;metric;calc;stat;method;formula;figure",
    "window": "window;period;range;span;duration;timeframe;interval;lookback;over;since;stretch;horizon",
}
BEFORE = {
    "device": "target;selected;chosen;the;my;this;device;entity;controlled;addressed;affected;intended;given;smart;local;wanted;field;plant;home;iot;object;one;ref;named".split(";"),
    "area": "target;the;in;home;device;selected;which;house;site;within;given;at".split(";"), "floor": "which;the;on;target;house;building".split(";"),
    "kind": "device;entity;thing;target;object;the;of;item;appliance".split(";"),
    "value": "new;target;desired;the;set;next;wanted;requested;final;to;goal;intended;chosen;write;given;demand;control;command".split(";"),
    "action": "the;requested;wanted;chosen;device;next;control;intended;new;run;desired;power;target".split(";"),
    "property": "the;target;which;device;chosen;state;point;thing".split(";"),
    "label": "timer;the;its;short;my;display".split(";"), "above": "if;when;alert;alarm;warn;value;is;limit".split(";"), "below": "if;when;alert;alarm;warn;value;is;limit".split(";"),
    "operation": "stat;the;wanted;chosen;math;series".split(";"), "window": "time;the;look;past;history;over".split(";"),
}
AFTER = {
    "device": "name;id;ref;key;label;tag;handle;code;identifier;path;no;uid;title;string;text;selector;address;token".split(";"),
    "area": "name;id;ref;label;key;title;code".split(";"), "floor": "name;id;label;no".split(";"), "kind": "name;code;of_device;word;label".split(";"),
    "value": "out;in;arg;field;setting;number;input;target;wanted;spec;point;requested;param".split(";"), "action": "name;code;type;word;id;arg;kind;key".split(";"),
    "property": "name;key;id;path;code;word".split(";"), "label": "text;string;field;word".split(";"), "above": "limit;value;threshold;level;bound".split(";"),
    "below": "limit;value;threshold;level;bound".split(";"), "operation": "name;type;code;kind".split(";"), "window": "text;spec;length;size;name".split(";"),
}
OPAQUE = ("device", "value", "action")  # roles that place and type give away, so their words may mean nothing


def invented(rng):
    """A word without meaning, lower-case: coined, syllables, a letter and digits, or an abbreviation."""
    draw = rng.random()
    if rng.random() < 0.5:
        return coin(rng, "tool").lower()
    if draw < 0.7:
        return "".join(rng.choices(SYLLABLES, k=rng.choice((2, 2, 3)))) + rng.choice(ENDINGS)
    if draw < 0.85:
        return rng.choice(("arg", "p", "x", "par", "a", "f", "in", "reg", "k")) + str(rng.randrange(0, 60))
    return "".join(rng.choices("bcdfgklmnprstvxz", k=rng.randrange(2, 5)))


def on_side(rng, make, held_out, tries=200):
    """The first word of `make` whose hash lies on the wanted side; the last one when none does."""
    for _ in range(tries):
        word = make(rng)
        if is_held_out("tool", word) == held_out:
            break
    return word


NEW = 0.2  # of the words beside the telling one, in training


def _beside(rng, words, held_out):
    """A word that stands beside the telling one; in training also a coined one."""
    return coin(rng, "tool").lower() if not held_out and rng.random() < NEW else rng.choice(words)


def _param(role, opaque, held_out):
    words = PARAMS[role].split(";")

    def make(rng):
        draw = rng.random()
        if opaque and role in OPAQUE:
            return invented(rng)
        word = rng.choice(words[:16]) if rng.random() < 0.4 else rng.choice(words)
        if role not in BEFORE or draw < 0.4:
            return word
        if draw < 0.66:
            return f"{_beside(rng, BEFORE[role], held_out)}_{word}"
        if draw < 0.9:
            return f"{word}_{_beside(rng, AFTER[role], held_out)}"
        return f"{_beside(rng, BEFORE[role], held_out)}_{word}_{_beside(rng, AFTER[role], held_out)}"
    return make


def param(rng, role, held_out, opaque=False):
    """A parameter's word in snake case; `opaque` allows a word without meaning."""
    return on_side(rng, _param(role, opaque, held_out), held_out)


NOUNS = "device;entity;thing;item;unit;node;home;house;iot;svc;api;x;my;local;hub;plant;site;room;gateway;smart;main;core;ctl;mqtt;app;user;io;edge;field".split(";")
TAILS = "v2;now;cmd;tool;call;service;fn;action;device;thing;one;request;op;2;home;entity".split(";")


def tool(rng, words, held_out, opaque=False):
    """A tool's word in snake case, from `words` or compounds of them; without any meaning when `opaque`."""
    def make(rng):
        draw = rng.random()
        if opaque:
            return invented(rng) + (f"_{invented(rng)}" if rng.random() < 0.3 else "")
        word = rng.choice(words)
        if draw < 0.45:
            return word
        return f"{word}_{_beside(rng, TAILS, held_out)}" if draw < 0.7 else f"{_beside(rng, NOUNS, held_out)}_{word}"
    return on_side(rng, make, held_out)
